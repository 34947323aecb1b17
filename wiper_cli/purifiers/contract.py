"""What every purifier keeps: typed settings in, new weights out, no trigger in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from formats import Edit, Model
from wiper_cli.progress import Progress, silent

if TYPE_CHECKING:
    from wiper_cli.classifier import Classifier
    from wiper_cli.images.splits import Clean, Part
    from wiper_cli.perturbations import Recovered


@dataclass(frozen=True)
class Epoch:
    """One line of a purification's history: loss parts (means over the epoch), accuracy on the select part,
    mean |w - w_before| over all trained weights, seconds since the start."""

    epoch: int
    loss: Mapping[str, float]
    select_accuracy: float
    moved: float
    seconds: float


@dataclass(frozen=True)
class Purified:
    """The edit, how it came about, and sentences about what the method had to leave out."""

    edit: Edit
    history: Sequence[Epoch] = ()
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Task:
    """What a method works on. It trains a copy of ``classifier`` on ``clean.fit`` and chooses on
    ``clean.select``. ``suspects``: accused classes, most suspicious first. ``recovered``: what detectors
    inverted. ``triggered``: images that the user says carry the trigger, for methods that need them. ``live``:
    batch norm is trained with its statistics, for methods that can."""

    classifier: Classifier
    clean: Clean
    suspects: Sequence[int] = ()
    recovered: Sequence[Recovered] = ()
    progress: Progress = silent
    seed: int = 0
    triggered: Part | None = None
    live: bool = False


class Purifier(Protocol):
    """A frozen dataclass of typed settings with defaults; deterministic under the task's seed on the CPU.
    ``trains_live``: batch norm may be live; else it stays frozen. ``presets``: named sets of fields that differ
    from the defaults. ``uses_scan``: reads the task's suspects or recovered transforms. ``quick``: fields for a trial
    of seconds. ``claims_removal``: backdoors shall go; else it is in no table of the bench."""

    name: ClassVar[str]
    title: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    trains_live: ClassVar[bool]
    uses_scan: ClassVar[bool]
    quick: ClassVar[Mapping[str, Any]]
    claims_removal: ClassVar[bool]

    @property
    def needs(self) -> frozenset[str]:
        """Any of "labels", "body" (gradients through the whole network), "head", "triggered" (images that carry the
        trigger); depends on the settings."""
        ...

    def require(self, model: Model, live: bool, triggered: bool) -> None:
        """Raises :class:`wiper_cli.verdict.Problem` where the model, or the call, lacks what the method needs."""
        ...

    def run(self, task: Task) -> Purified:
        """The weights of the purified model; raises :class:`wiper_cli.verdict.Problem` where it cannot."""
        ...
