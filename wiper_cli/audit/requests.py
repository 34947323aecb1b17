"""What the pipeline can be asked, one type for each of its functions. Imports no torch: commands make requests.

The defaults are those of the commands' options, which read them here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from formats import NewTensor
from wiper_cli.audit import answers
from wiper_cli.detectors import DETECTORS
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purifier
from wiper_cli.worker.codec import OneOf
from wiper_cli.worker.protocol import Job

A = TypeVar("A")

#: ``auto``: the usual one for the network's classes and pixels (:func:`wiper_cli.audit.planning.usual`).
Asked = Literal["auto", "quick", "normal", "thorough"]


@dataclass(frozen=True, kw_only=True)
class Request(Job[A]):
    """``arch``: architecture of a safetensors file, by name or as FILE.py:FACTORY. ``logits``: name of the output that
    holds them, of several."""

    arch: str | None = None
    logits: str | None = None


@dataclass(frozen=True, kw_only=True)
class InspectRequest(Request[answers.InspectAnswer]):
    """Say what the file is; no images."""

    answer = answers.InspectAnswer


@dataclass(frozen=True, kw_only=True)
class Examination(Request[A]):
    """``clean``: folder of clean images. ``mean`` to ``channel_order``: the preprocessing, found where ``None``;
    ``input_size``: height, width. ``preprocessing``: a file that says all of it. ``classes``: a file of
    class names. ``max_images``: most that are held in memory."""

    clean: Path
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, int] | None = None
    resize: Literal["squash", "crop"] | None = None
    channel_order: Literal["rgb", "bgr"] | None = None
    preprocessing: Path | None = None
    classes: Path | None = None
    max_images: int = 5000
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ScanRequest(Examination[answers.ScanAnswer]):
    """Look for a backdoor. ``effort``: how much is done; ``budget``: seconds to choose it by instead. ``explain``:
    folder of images that carry a trigger; the verdict does not use them. ``canaries``: known backdoors to plant in
    copies and look for, where nothing is found. ``done``: of the same scan, broken off."""

    answer = answers.ScanAnswer

    detectors: tuple[str, ...] = field(default_factory=lambda: tuple(DETECTORS))
    effort: Asked = "auto"
    budget: float | None = None
    explain: Path | None = None
    canaries: int = 0
    done: answers.Kept = field(default_factory=answers.Kept)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(Examination[answers.PlanAnswer]):
    """Say what a scan would do; fields as of :class:`ScanRequest`."""

    answer = answers.PlanAnswer

    detectors: tuple[str, ...] = field(default_factory=lambda: tuple(DETECTORS))
    effort: Asked = "auto"
    budget: float | None = None
    canaries: int = 0


@dataclass(frozen=True, kw_only=True)
class PurifyRequest(Examination[answers.PurifyAnswer]):
    """Remove a backdoor. ``method``: settings of one of :data:`wiper_cli.purifiers.METHODS`. ``detectors``: name the
    suspects; with none, no probe is run either. ``effort``: of their scans and of the probes. ``max_rounds``: of scan,
    purifier and probes, where one is not enough. ``targets``: classes known to be accused. ``triggered``: folder of
    images that carry the trigger. ``live``: train batch norm. ``max_accuracy_drop``: fraction in 0..1.
    ``accept_unverified``: also where nothing was found that could be seen to go, or nothing but the accuracy could be
    looked at."""

    answer = answers.PurifyAnswer

    method: Annotated[Purifier, OneOf(METHODS)] = field(
        default_factory=lambda: next(iter(METHODS.values()))()
    )
    detectors: tuple[str, ...] = field(default_factory=lambda: tuple(DETECTORS))
    effort: Asked = "auto"
    max_rounds: int = 5
    targets: tuple[int, ...] = ()
    triggered: Path | None = None
    live: bool = False
    max_accuracy_drop: float = 0.02
    accept_unverified: bool = False


@dataclass(frozen=True, kw_only=True)
class KnownTrigger:
    """A picture laid over images with opacity ``alpha`` where ``mask`` is white; ``position``: x, y of its corner."""

    image: Path
    mask: Path | None = None
    alpha: float = 1.0
    position: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Examination[answers.VerifyAnswer]):
    """Measure triggers. ``purified``: a second file, measured on the same images. ``triggers``: names of families,
    ``None`` for all that can be stamped. ``trigger_files``: as the zoo writes them. ``fit``: also fit families to the
    model. ``poisoned``: folder of triggered images. ``target``: the class aimed at, found where ``None``.
    ``max_asr``: corrected ASR from which a trigger counts as working, 0..1."""

    answer = answers.VerifyAnswer

    purified: Path | None = None
    triggers: tuple[str, ...] | None = None
    trigger_files: tuple[Path, ...] = ()
    fit: bool = False
    known: KnownTrigger | None = None
    poisoned: Path | None = None
    target: int | None = None
    max_asr: float = 0.2


@dataclass(frozen=True, kw_only=True)
class CheckRequest(Request[answers.CheckAnswer]):
    """Run a written file through the runtime that serves it. ``dtypes``: those of its tensors, which decide the
    tolerance. ``expected``: of the :class:`answers.PurifyAnswer`."""

    answer = answers.CheckAnswer

    dtypes: tuple[str, ...]
    expected: Mapping[str, NewTensor]


@dataclass(frozen=True, kw_only=True)
class RebuildRequest(Request[answers.RebuildAnswer]):
    """Move the tensors of the file into the definition ``arch``, which is given."""

    answer = answers.RebuildAnswer


#: Whatever the worker can be asked.
REQUESTS = (
    InspectRequest, PlanRequest, ScanRequest, PurifyRequest, VerifyRequest, CheckRequest, RebuildRequest,
)  # fmt: skip
