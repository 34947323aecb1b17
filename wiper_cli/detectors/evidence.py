"""What a detector says, and the contract that every detector keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress


@dataclass(frozen=True)
class Evidence:
    """One detector's answer.

    ``ran``: False with a ``reason`` when it could not look. ``statistic`` against ``threshold`` (``fired`` is
    their comparison); ``threshold_origin``: where that number comes from; ``false_alarm_rate``: measured on
    clean models, ``None`` while nobody has. ``per_class``: the statistic of every class. ``suspects``:
    classes worth unlearning, most suspicious first, also when nothing fired. ``recovered``: what was found.
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
    per_class: Sequence[float] = ()
    suspects: Sequence[int] = ()
    recovered: Sequence[Recovered] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    title: str = ""


class Detector(Protocol):
    """A frozen dataclass of typed settings with defaults; deterministic under ``seed`` on the CPU."""

    name: ClassVar[str]
    title: ClassVar[str]
    needs_gradients: ClassVar[bool]

    def run(self, classifier: Classifier, clean: Clean, progress: Progress, seed: int) -> Evidence:
        """Searches on ``clean.fit``, scores on ``clean.select``; never touches ``clean.report``."""
        ...
