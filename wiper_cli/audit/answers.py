"""What the pipeline answers, one type for each request. Imports no torch: an answer crosses to the parent process.

A *section* is a part of the report under its name in ``wiper_cli/reports/schema.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from formats import Edit, NewTensor
from wiper_cli.verdict import Finding, Verdict

Section = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``timing``: seconds by stage. ``not_done``: what a reader may miss, and why."""

    model: Section
    sentence: str
    timing: Mapping[str, float]
    not_done: tuple[Mapping[str, str], ...]
    environment: Section


@dataclass(frozen=True, kw_only=True)
class InspectAnswer(Answer):
    """What the file is."""


@dataclass(frozen=True, kw_only=True)
class ExaminationAnswer(Answer):
    """What every examination says. ``salience``: ``None`` where the head is not linear, or it was not asked for."""

    clean: Section
    preprocessing: Section
    salience: Section | None
    findings: tuple[Finding, ...]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class PlanAnswer(Answer):
    """``plan``: as a scan reports it in ``detection.plan``."""

    plan: Section


@dataclass(frozen=True, kw_only=True)
class KeptTransform:
    """A :class:`wiper_cli.perturbations.Recovered` less its tensors; the ``mapping`` in pairs."""

    family: str
    target: int
    facts: Section
    mapping: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class KeptPiece:
    """The :class:`wiper_cli.detectors.evidence.Evidence` of a detector that looked with ``settings``; the ``mapping``
    in pairs."""

    name: str
    settings: Section
    reason: str
    statistic: float | None
    threshold: float | None
    threshold_origin: str
    false_alarm_rate: float | None
    fired: bool
    target: int | None
    mapping: tuple[tuple[int, int], ...]
    per_class: tuple[float | None, ...]
    suspects: tuple[int, ...]
    recovered: tuple[KeptTransform, ...]
    facts: Section
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What detectors found, for a scan that goes on where another was broken off (:mod:`wiper_cli.audit.keeping`).
    ``tensors``: of every transform, by ``PIECE.TRANSFORM.NAME``."""

    pieces: tuple[KeptPiece, ...] = ()
    tensors: Mapping[str, NewTensor] = field(default_factory=dict)


_NONE = "No verdict: "


@dataclass(frozen=True, kw_only=True)
class LongAnswer(ExaminationAnswer):
    """Of work that takes minutes. ``complete``: False of an answer that stands if the work ends here; another follows.
    ``plan``: what is about to be done, a sentence."""

    work: ClassVar[str]

    complete: bool = True
    plan: str = ""

    def ended(self, reason: str) -> Self:
        """What is left of work that ended here, and why it did."""
        not_done = (*self.not_done, {"what": f"the rest of the {self.work}", "why": reason})
        said = f"{self.sentence} {reason}"
        if self.sentence.startswith(_NONE):  # the cause comes first
            said = f"{_NONE}{reason.removeprefix(_NONE)} {self.sentence.removeprefix(_NONE)}"
        return replace(self, complete=True, sentence=said, not_done=not_done)


@dataclass(frozen=True, kw_only=True)
class ScanAnswer(LongAnswer):
    """``explanation``: what triggered images show, ``None`` where none were given. ``kept``: of an incomplete one, what
    was found. ``taken``: the detectors whose evidence came with the request."""

    work = "scan"

    detection: Section
    explanation: Section | None
    kept: Kept = field(default_factory=Kept)
    taken: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PurifyAnswer(LongAnswer):
    """``edit``: the new weights, accepted or not. ``expected``: ``inputs``, normalised float32 [N,C,H,W], and the
    ``outputs`` [N,K] that the purified file has to give for them. ``architecture``: name of the network. ``logits``: of
    the output that was taken, of several. An incomplete one has neither weights nor, before the first round has ended,
    ``verification`` and ``purification``."""

    work = "purification"

    detection: Section
    verification: Section | None
    purification: Section | None
    edit: Edit
    expected: Mapping[str, NewTensor]
    architecture: str
    logits: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the edit may be written."""
        return self.complete and self.purification is not None and self.purification["accepted"] is True


@dataclass(frozen=True, kw_only=True)
class VerifyAnswer(ExaminationAnswer):
    """``verification``: rates before and, with a purified file, after."""

    verification: Section


@dataclass(frozen=True, kw_only=True)
class CheckAnswer:
    """``largest_logit_difference``: relative to the largest logit; ``None`` where the outputs cannot be compared."""

    largest_logit_difference: float | None
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class RebuildAnswer:
    """``tensors``: all that the definition ``architecture`` holds. ``moved``: how many of them the file had, ``left``:
    names of the file that it has no place for."""

    architecture: str
    tensors: Mapping[str, NewTensor]
    moved: int
    left: tuple[str, ...]
