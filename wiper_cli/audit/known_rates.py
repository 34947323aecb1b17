"""How often scans accused honest networks and accepted purifications left a backdoor that worked, where that was
measured, and of which networks it was. Imports no torch.

``known_rates.json`` is written by ``python -m benchmarks.detection``, also of what ``benchmarks.acceptance`` found.
What was measured on some networks holds for others like them at most, so a rate is known only where effort, detectors,
size of the images and number of classes are within what was measured, and the images are no fewer than searches draw.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from wiper_cli.rates import Rate

FILE = Path(__file__).with_name("known_rates.json")

#: Images to search on and to score on that searches draw; of fewer the shares are coarser than those measured.
DRAWN = 512, 200
#: Said where no rate is known.
NOT_CALIBRATED = "The thresholds are not calibrated: no false-alarm rate is known."


@dataclass(frozen=True)
class KnownRate:
    """``accused``: honest networks that a scan accused, among those examined. ``about``: what they were. ``shapes``:
    channels, height and width of their images; ``classes``: the fewest and the most. ``outlived``: backdoors that still
    worked, among those of which a purification with the defaults was accepted. ``statistics``: what each detector
    measured of the honest ones, and ``fired``: of how many it accused."""

    effort: str
    detectors: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    classes: tuple[int, int]
    about: str
    accused: Rate
    outlived: Rate = field(default_factory=Rate)
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    fired: Mapping[str, Rate] = field(default_factory=dict)

    def covers(
        self,
        effort: str,
        detectors: Collection[str],
        shape: tuple[int, int, int],
        classes: int,
        images: tuple[int, int] = DRAWN,
    ) -> bool:
        """Whether it was measured on what is like this; ``images``: in the parts to search on and to score on."""
        if images[0] < DRAWN[0] or images[1] < DRAWN[1]:
            return False
        like = shape in self.shapes and self.classes[0] <= classes <= self.classes[1]
        return effort == self.effort and set(detectors) == set(self.detectors) and like

    @property
    def sentence(self) -> str:
        low, high = self.accused.interval
        return (
            f"The thresholds were set by hand; of {self.accused.n} honest networks of that size ({self.about}), "
            f"{self.accused.hits or 'none'} {'were' if self.accused.hits != 1 else 'was'} accused "
            f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %). Of others no rate is known."
        )

    def p_value(self, detector: str, statistic: float | None) -> float | None:
        """Of the honest networks and this one the share whose statistic is at least this: a p-value where this network
        is one more of their kind (conformal; Vovk, Gammerman, Shafer 2005); ``None`` where none is known."""
        known = self.statistics.get(detector, ())
        if not known or statistic is None:
            return None
        return (1 + sum(value >= statistic for value in known)) / (1 + len(known))

    @property
    def removal(self) -> str:
        """On accepted purifications; empty where none was measured."""
        if not self.outlived.n:
            return ""
        low, high = self.outlived.interval
        return (
            f"Of {self.outlived.n} accepted purifications of small networks whose backdoor was known, after "
            f"{self.outlived.hits or 'none'} it still worked (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
        )

    def as_dict(self) -> dict[str, Any]:
        """The report's ``detection.false_alarms``."""
        return {**self.accused.as_dict(), "about": self.about}


@cache
def measured() -> tuple[KnownRate, ...]:
    """All that ship."""
    return tuple(
        KnownRate(
            effort=one["effort"],
            detectors=tuple(one["detectors"]),
            shapes=tuple((c, h, w) for c, h, w in one["shapes"]),
            classes=(one["classes"][0], one["classes"][1]),
            about=one["about"],
            accused=Rate(one["accused"], one["honest"]),
            outlived=Rate(one["outlived"], one["accepted"]),
            statistics={name: tuple(values) for name, values in one["statistics"].items()},
            fired={name: Rate(hits, one["honest"]) for name, hits in one["fired"].items()},
        )
        for one in json.loads(FILE.read_text(encoding="utf-8"))
    )


def known_rate(
    effort: str,
    detectors: Collection[str],
    shape: tuple[int, int, int],
    classes: int,
    images: tuple[int, int] = DRAWN,
) -> KnownRate | None:
    """That of networks like this one, examined with so many images."""
    return next((one for one in measured() if one.covers(effort, detectors, shape, classes, images)), None)
