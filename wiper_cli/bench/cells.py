"""One cell: what is measured on which specimen, and its name. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self

from wiper_cli.detectors import detector
from wiper_cli.nearest import nearest
from wiper_cli.purifiers import METHODS
from wiper_cli.salience import METRICS
from wiper_cli.verdict import Problem

#: The settings' own defaults, by a name in the place of a preset.
DEFAULT = "default"

Kind = Literal["purify", "scan", "salience"]


#: The detectors of a cell's scan: those that there were when the committed cells were run.
SCANNED = ("max-margin", "warp-inversion", "square-probe")


@dataclass(frozen=True)
class Cell:
    """``kind`` "purify": the method ``name`` with its ``preset`` and then ``settings``; "scan": the detectors, whose
    suspects and recovered triggers other cells take; "salience": the metric ``name``.

    ``file``: of the specimen. ``images``: of the clean folder, in all three parts; 0: all there are. ``labels``:
    the folder's, or the model's own predictions. ``test_images``: measured on. ``watch``: ASR after every epoch, too.
    ``live``: batch norm is trained with its statistics.
    """

    specimen: str
    name: str
    kind: Kind = "purify"
    preset: str = DEFAULT
    settings: tuple[tuple[str, Any], ...] = ()
    file: str = "model.safetensors"
    images: int = 0
    labels: Literal["folder", "model"] = "folder"
    test_images: int = 2000
    seed: int = 1
    watch: bool = False
    live: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From :meth:`given` or :meth:`as_dict`."""
        return cls(**{**given, "settings": tuple(given.get("settings", {}).items())})

    @cached_property
    def id(self) -> str:
        """Readable, and different for different cells: it ends in a digest of everything."""
        parts = [self.specimen, *([] if self.kind == "purify" else [self.kind]), self.name]
        if self.preset != DEFAULT:
            parts.append(self.preset)
        parts += [f"{key}={value}" for key, value in self.settings]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("file", "images", "labels", "watch", "live") and value != item.default:
                parts.append(str(value) if item.name in ("file", "labels") else f"{item.name}{int(value)}")
        text = re.sub(r"[^A-Za-z0-9.=_-]+", "-", ".".join([*parts, f"s{self.seed}"]))
        return f"{text[:180]}.{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """Of every field, hexadecimal."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Every field, as JSON gives it back."""
        own = {**asdict(self), "settings": dict(self.settings)}
        if not self.live:  # names older than the field do without
            del own["live"]
        found: dict[str, Any] = json.loads(json.dumps(own))
        return found

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON gives it back."""
        usual = {item.name: item.default for item in fields(self)} | {"settings": {}}
        return {key: value for key, value in self.as_dict().items() if value != usual[key]}

    def purifier(self) -> Any:
        """The settings of its method, typed. Raises :class:`Problem` for a method, preset or setting that is not."""
        if self.name not in METHODS:
            raise Problem(f"There is no method {self.name!r}{nearest(self.name, METHODS)}.")
        kind = METHODS[self.name]
        if self.preset != DEFAULT and self.preset not in kind.presets:
            raise Problem(f"{self.name} has no preset {self.preset!r}{nearest(self.preset, kind.presets)}.")
        given = {**kind.presets.get(self.preset, {}), **dict(self.settings)}
        known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        for key in given:
            if key not in known:
                raise Problem(f"{self.name} has no setting {key!r}{nearest(key, known)}.")
        return kind(**given)

    def resolved(self) -> dict[str, Any]:
        """The settings that its names stand for now, as JSON gives them back; for a scan by detector. Raises
        :class:`Problem` as :meth:`purifier`, and for a metric that is not."""
        if self.kind == "scan":
            return {name: _plain(detector(name)) for name in SCANNED}
        if self.kind == "purify":
            return _plain(self.purifier())
        if self.name not in METRICS:
            raise Problem(f"There is no metric {self.name!r}{nearest(self.name, METRICS)}.")
        own = METRICS[self.name].settings
        return _plain(own()) if own else {}

    @property
    def uses_scan(self) -> bool:
        """Whether its method takes suspects and recovered transforms; all others would give the same without."""
        return self.kind == "purify" and self.name in METHODS and METHODS[self.name].uses_scan

    def scan(self) -> Cell:
        """The scan whose findings this cell takes."""
        return Cell(
            self.specimen, "detectors", "scan", file=self.file, images=self.images, labels=self.labels, seed=self.seed
        )  # fmt: skip


def _plain(settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return found
