"""What a detector says, and the contract that every detector keeps. Imports no torch.

The settings of a detector, its rule and the wording of its finding stand in ``NAME/__init__.py``, the search itself,
``look(settings, classifier, clean, clock, seed)``, beside them in ``method.py``, loaded when it runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from wiper_cli.detectors.effort import LEAST_SIDE, Bar, Effort, Extent, Plan
from wiper_cli.progress import Progress
from wiper_cli.verdict import Rule

if TYPE_CHECKING:
    from wiper_cli.classifier import Classifier
    from wiper_cli.images.splits import Clean
    from wiper_cli.perturbations import Recovered

#: Where the thresholds of the first two detectors come from.
ORIGIN = "chosen on eight small CIFAR-10 networks, three of them clean"

#: Images in both parts together, and in each, below which no detector that needs data looks.
FEWEST_IMAGES, FEWEST_IN_PART = 20, 8


@dataclass(frozen=True)
class Evidence:
    """One detector's answer.

    ``ran``: False with a ``reason`` when it could not look. ``statistic`` against ``threshold`` (``fired`` is
    their comparison, for a ``target`` or for a ``mapping`` of classes to others); ``threshold_origin``: where that
    number comes from; ``false_alarm_rate``: measured on clean models, ``None`` while nobody has. ``per_class``: the
    statistic of every class. ``suspects``: classes worth unlearning, most suspicious first, also when nothing
    fired. ``recovered``: what was found.
    """

    name: str
    ran: bool
    reason: str = ""
    statistic: float | None = None
    threshold: float | None = None
    threshold_origin: str = ""
    false_alarm_rate: float | None = None
    fired: bool = False
    target: int | None = None
    mapping: Mapping[int, int] = field(default_factory=dict)
    per_class: Sequence[float] = ()
    suspects: Sequence[int] = ()
    recovered: Sequence[Recovered] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    title: str = ""


def judged(
    settings: Bar,
    statistic: float,
    target: int | None = None,
    mapping: Mapping[int, int] = MappingProxyType({}),
    **more: Any,
) -> Evidence:
    """The evidence of a search that came to its end: only over the threshold is ``target`` or ``mapping`` accused.
    ``more``: what else :class:`Evidence` holds."""
    fired = statistic > settings.threshold
    return Evidence(
        name=settings.name,
        ran=True,
        statistic=statistic,
        threshold=settings.threshold,
        threshold_origin=settings.origin,
        fired=fired,
        target=target if fired else None,
        mapping=mapping if fired else {},
        **more,
    )


class CannotLookError(Exception):
    """Ends a detector with one sentence instead of a statistic."""


class Clock:
    """Tells how far a search is and how long it took; decides nothing."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self.stage, self.progress = stage, progress
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.start

    def tick(self, done: int, total: int) -> None:
        """``done`` of ``total`` equal pieces are done."""
        self.progress(self.stage, done, total)


def setting(default: Any, text: str) -> Any:
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Detector:
    """Base of all detectors: a frozen dataclass of typed settings with defaults; deterministic under ``seed`` on the
    CPU. ``says``: what a finding tells of the accused class. ``in_percent``: the statistic is a share of images.
    ``names_class``: it accuses classes, not a map of them. ``rule``: what findings name; a detector that is only a
    probe has none."""

    name: ClassVar[str]
    title: ClassVar[str]
    rule: ClassVar[Rule]
    says: ClassVar[str]
    in_percent: ClassVar[bool] = True
    names_class: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    #: Fields for a trial of seconds.
    quick: ClassVar[Mapping[str, Any]] = {}
    #: The fields in which an effort differs from the defaults, which are those of ``thorough``.
    efforts: ClassVar[Mapping[Effort, Mapping[str, Any]]] = {}
    #: The fields in which it differs further for images of :data:`LEAST_SIDE` pixels and more, whose passes are dear.
    large: ClassVar[Mapping[Effort, Mapping[str, Any]]] = {}

    @classmethod
    def less(cls, effort: Effort, extent: Extent) -> dict[str, Any]:
        """The fields in which an effort differs from the defaults for a problem of this shape."""
        large = min(extent.height, extent.width) >= LEAST_SIDE
        return {**cls.efforts.get(effort, {}), **(cls.large.get(effort, {}) if large else {})}

    @classmethod
    def at(cls, effort: Effort, extent: Extent) -> Self:
        """The settings for an effort and a problem of this shape."""
        chosen = cls.less(effort, extent)
        if "resolution" in chosen:
            chosen["resolution"] = max(chosen["resolution"], extent.resolution)
        return cls(**chosen)

    def plan(self, extent: Extent) -> Plan | None:
        """What :meth:`run` will do at most, as ``plan`` of its ``method.py`` has it; ``None`` where there is none."""
        if type(self).run is not Detector.run:
            return None
        method = import_module(f"{type(self).__module__}.method")
        found: Plan | None = method.plan(self, extent) if hasattr(method, "plan") else None
        return found

    def run(self, classifier: Classifier, clean: Clean, progress: Progress, seed: int) -> Evidence:
        """Searches on ``clean.fit``, scores on ``clean.select``; never touches ``clean.report``. What it does follows
        from its settings, the model and the images. Where model or clean set are not enough the evidence says so."""
        clock = Clock(self.name, progress)
        try:
            self._require(classifier, clean)
            method = import_module(f"{type(self).__module__}.method")
            found: Evidence = method.look(self, classifier, clean, clock, seed)
        except CannotLookError as error:
            found = Evidence(self.name, ran=False, reason=str(error))
        origin = found.threshold_origin
        own = found.threshold != getattr(type(self), "threshold", found.threshold)
        if origin and self.shortened and not own:
            origin += "; it was set for the thorough search, and this one did less"
        return replace(found, title=self.title, threshold_origin=origin, seconds=clock.seconds)

    @property
    def shortened(self) -> bool:
        """Whether any setting that an effort lowers differs from its default."""
        usual = {item.name: item.default for item in fields(self)}
        return any(getattr(self, name) != usual[name] for own in self.efforts.values() for name in own)

    def _require(self, classifier: Classifier, clean: Clean) -> None:
        if self.needs_gradients and classifier.network is None:
            raise CannotLookError(
                "it needs gradients through the network, and this file was opened head-only"
            )
        if classifier.classes < 2:
            raise CannotLookError("the network has fewer than 2 classes")
        if not self.needs_images:
            return
        fit, select = len(clean.fit), len(clean.select)
        if fit + select < FEWEST_IMAGES or min(fit, select) < FEWEST_IN_PART:
            raise CannotLookError(
                f"it needs {FEWEST_IMAGES} clean images, at least {FEWEST_IN_PART} in each part, "
                f"and there are {fit} to search on and {select} to score on"
            )
        if len(clean.fit.labels.unique()) < 2:
            raise CannotLookError("all clean images to search on belong to one class")


def check(name: str, kind: Any) -> type[Detector]:
    """``kind``, if it can stand under ``name`` in the table of detectors; else raises ``TypeError`` or ``ValueError``,
    which says why not."""
    if not (isinstance(kind, type) and issubclass(kind, Detector) and "__dataclass_fields__" in vars(kind)):
        raise TypeError("it is no dataclass that derives from Detector")
    if kind.name != name or not (kind.title and kind.says):
        raise ValueError(f"it is called {kind.name} there, or has no title or no words for a finding")
    if not isinstance(kind.rule, Rule) or not re.fullmatch("WIPER(-[0-9A-Z]+)+", kind.rule.id):
        raise ValueError("it has no rule, or its id is not of the form WIPER-NAME")
    if kind.run is Detector.run and find_spec(f"{kind.__module__}.method") is None:
        raise ValueError(f"there is no {kind.__module__}.method to run")
    if not all(item.metadata.get("help") for item in fields(kind())):
        raise TypeError("a field has no help")
    return kind
