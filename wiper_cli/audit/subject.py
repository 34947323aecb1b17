"""The model file opened and the clean folder decoded for it: what every examination begins with."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from formats import Ambiguous, Model, Unsupported, open_model, read_source
from wiper_cli.audit.agreement import questions, require_agreement, stateless
from wiper_cli.audit.requests import Examination, Request
from wiper_cli.audit.served import Served
from wiper_cli.classifier import Classifier, correct
from wiper_cli.images.folder import CleanFolder, read_folder
from wiper_cli.images.labels import named
from wiper_cli.images.preprocessing import Flags, Prepared, Preprocessing, doubt, require_finite
from wiper_cli.images.preprocessing import prepare as prepare_images
from wiper_cli.images.splits import Clean, Part
from wiper_cli.salience.stream import Salience, SaliencePass
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity

_MULTILABEL = (
    "The network has a sigmoid for each class (multi-label). Which class is the highest is examined, not which ones "
    "are above their thresholds, and training with one label an image would move those. If each image has one class, "
    "export the network without the sigmoid."
)
#: Most networks of the same tensors that are tried by their accuracy.
_CANDIDATES = 6


class Reporter(Protocol):
    """A :class:`wiper_cli.progress.Progress` that can also remark something."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...

    def log(self, sentence: str) -> None: ...


class _Silent:
    def __call__(self, stage: str, done: int, total: int) -> None: ...
    def log(self, sentence: str) -> None: ...


#: Says nothing.
SILENT: Reporter = _Silent()


@dataclass
class Notes:
    """What accumulates on the way: seconds by stage, findings, and what was not done and why."""

    timing: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    not_done: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to the timing of ``name``."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timing[name] = round(self.timing.get(name, 0.0) + time.monotonic() - began, 3)

    def omit(self, what: str, why: str) -> None:
        """Something that a reader may expect and that was not done."""
        self.not_done.append({"what": what, "why": why})


@dataclass
class Subject:
    """A model, which is what is ``served``, with the images it is examined on. ``salience`` is ``None`` where the head
    is not linear."""

    model: Model
    folder: CleanFolder
    preprocessing: Preprocessing
    classifier: Classifier
    clean: Clean
    served: Served
    salience: Salience | None = None
    accuracy: float | None = None

    @property
    def class_names(self) -> list[str]:
        """A name for every class: the model's own, else its folder's, else its number."""
        return list(self.model.class_names or self.folder.names or map(str, range(self.model.classes)))

    @property
    def doubt(self) -> str:
        """Why nothing that is not found here is worth a verdict; empty as a rule."""
        doubtful = "" if self.preprocessing.settled else self.preprocessing.doubt
        return self.folder.doubt or doubtful or (_MULTILABEL if self.model.multilabel else "")

    def everything(self) -> Part:
        """All images in memory, for measurements after which nothing is chosen."""
        parts = (self.clean.fit, self.clean.select, self.clean.report)
        return Part(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def open_file(request: Request[Any], report: Reporter, notes: Notes, arch: str | None = None) -> Model:
    """Opens the model; says what opening had to leave out."""
    report("open the model", 0, 0)
    with notes.stage("open"):
        source = replace(read_source(request.model), logits=request.logits)
        try:
            with stateless():
                model = open_model(source, arch or request.arch)
        except Ambiguous as several:
            fitting = _fitting(request, several)
            if request.logits is not None or len(fitting) != 1:
                raise
            model = open_model(replace(source, logits=fitting[0]), arch or request.arch)
            said = f"of the outputs {fitting[0]!r} alone has as many numbers as there are folders"
            model.notes = (*model.notes, said)
    for note in model.notes:
        report.log(note)
    return model


def _fitting(request: Request[Any], several: Ambiguous) -> list[str]:
    """The outputs with as many numbers as the clean images have classes."""
    if not isinstance(request, Examination) or not request.clean.is_dir():
        return []
    folders = sum(entry.is_dir() for entry in request.clean.iterdir())
    return [name for name, width in several.outputs.items() if width == folders]


def prepare(request: Examination[Any], report: Reporter, notes: Notes, salience: bool = True) -> Subject:
    """Opens the model, decodes the clean folder for it, has it agree with its serving runtime, and measures accuracy
    and salience in one pass."""
    subject = ready(request, report, notes)
    with notes.stage("salience"):
        one_pass(subject, request, salience, report, notes)
    return subject


def ready(request: Examination[Any], report: Reporter, notes: Notes) -> Subject:
    """Opens the model, decodes the clean folder for it, and has it agree with its serving runtime."""
    model = open_file(request, report, notes)
    names = model.class_names if request.classes is None else named(request.classes, model.classes)
    folder = read_folder(request.clean, model.classes, names)
    with notes.stage("images"):
        prepared = _decided(request, model, folder, report, notes)
        model, folder = prepared.classifier.model, prepared.folder
        model.class_names = names
    if folder.margin is not None:
        message = f"{folder.origin} Its margin is {100 * folder.margin:.1f} points."
        notes.findings.append(Finding("WIPER-F06", Severity.INFO, message))
    if folder.doubt:
        notes.findings.append(Finding("WIPER-F07", Severity.MEDIUM, folder.doubt))
    if prepared.preprocessing.margin is not None:
        message = (
            f"{prepared.preprocessing.origin} Its margin is {100 * prepared.preprocessing.margin:.1f} points."
        )
        notes.findings.append(Finding("WIPER-F02", Severity.INFO, message))
    if prepared.preprocessing.doubt:
        notes.findings.append(Finding("WIPER-F05", Severity.MEDIUM, prepared.preprocessing.doubt))
    report("compare with the serving runtime", 0, 0)
    prepared.classifier.lay_out(prepared.clean.select.images)
    with notes.stage("agreement"):
        served = Served(model, prepared.classifier.mean, prepared.classifier.std, request.arch)
        require_agreement(model, served, served.normalised(questions(prepared.clean.select.images)))
    return Subject(model, folder, prepared.preprocessing, prepared.classifier, prepared.clean, served)


def _flags(request: Examination[Any]) -> Flags:
    given = (request.mean, request.std, request.input_size, request.resize)
    if request.preprocessing is None:
        return Flags(*given, channel_order=request.channel_order)
    if (*given, request.channel_order) != (None,) * 5:
        raise Problem(
            "--preprocessing says it all: leave out --mean, --std, --input-size, --resize and --channel-order."
        )
    return Flags.of_file(request.preprocessing)


def device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:N]`` as a device that exists; raises Problem otherwise."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise Problem(f"--device {name} is not a device; use auto, cpu or cuda:N.") from None
    if chosen.type not in ("cpu", "cuda"):
        raise Problem(f"--device {name} is not supported; use auto, cpu or cuda:N.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise Problem(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def _decided(
    request: Examination[Any], model: Model, folder: CleanFolder, report: Reporter, notes: Notes
) -> Prepared:
    """Images for the model; where several networks have these tensors, the one that classifies best."""
    flags = _flags(request)

    def ready(one: Model) -> Prepared:
        return prepare_images(
            one, folder, flags, device(request.device), request.seed, request.max_images, report
        )

    names = model.architecture.candidates[:_CANDIDATES]
    if len(names) < 2 or request.arch is not None or not folder.labelled:
        return ready(model)
    tried: list[tuple[float, Prepared]] = []
    for name in names:
        try:
            other = model if name == model.architecture.name else open_file(request, report, notes, name)
            prepared = ready(other)
        except (Problem, Unsupported) as error:
            report.log(f"{name}: {error}")
            continue
        select = prepared.clean.select
        right = correct(prepared.classifier.logits, select.images, select.labels)
        tried.append((right / len(select), prepared))
    if not tried:
        raise Problem(
            f"None of {', '.join(names)} runs on these images; name one with --arch.", ExitCode.NO_VERDICT
        )
    _, prepared = max(tried, key=lambda one: one[0])
    said = ", ".join(f"{one.classifier.model.architecture.name} {100 * value:.1f} %" for value, one in tried)
    best = prepared.classifier.model
    chosen = replace(best.architecture, how="accuracy", candidates=names)
    best.architecture = chosen
    notes.findings.append(
        Finding(
            "WIPER-F04",
            Severity.INFO,
            f"Several networks have these tensors; {chosen.name} was taken by accuracy on the select part ({said}).",
        )
    )
    return prepared


def one_pass(
    subject: Subject, request: Examination[Any], wanted: bool, report: Reporter, notes: Notes
) -> None:
    """Accuracy over all images of the folder, and the salience of every unit of a linear head."""
    head = subject.model.head
    total = None
    if wanted and head is not None and head.linear:
        total = SaliencePass(subject.classifier.head()[0])
    elif wanted:
        notes.omit("salience", "The model has no linear head whose units could be scored.")
    right = 0
    counts, given = torch.zeros(2, subject.model.classes, dtype=torch.long)
    for x, y in _batches(subject, request, report):
        y = y.to(subject.classifier.device)
        if total is not None:
            features, logits = subject.classifier.features(x)
            weight = total.weight
            total.add(features.to(weight.device), logits.to(weight.device), y)
        else:
            logits = subject.classifier.logits(x)
        require_finite(logits)
        answers = logits.argmax(1).cpu()
        right += int((answers == y.cpu()).sum())
        counts += y.cpu().bincount(minlength=len(counts))
        given += answers.bincount(minlength=len(given))
    subject.salience = total.result() if total is not None else None
    if subject.folder.labelled:
        subject.accuracy = right / int(counts.sum())
        few = (
            "" if subject.model.class_names else " If the folders are named for classes, give --classes FILE."
        )
        if worse := doubt(right, counts.tolist(), given.tolist()):
            sentence = (
                f"No verdict: {worse}, so nothing that is measured on them would mean anything. "
                f"{subject.folder.origin} {subject.preprocessing.origin} One of these is wrong, or the network is.{few}"
            )
            found = Finding(
                "WIPER-F03", Severity.MEDIUM, sentence, {"right": right, "images": int(counts.sum())}
            )
            raise Problem(sentence, ExitCode.NO_VERDICT, [*notes.findings, found])


def _batches(
    subject: Subject, request: Examination[Any], report: Reporter
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What is in memory, then, of a labelled folder that is larger than that, the rest as it is decoded."""
    folder = subject.folder
    for part in (subject.clean.fit, subject.clean.select, subject.clean.report):
        for start in range(0, len(part), 256):
            report("score the units", start, len(part))
            yield part.images[start : start + 256], part.labels[start : start + 256]
    if folder.labelled and len(folder) > request.max_images:
        kept = torch.cat(list(folder.split(request.seed, request.max_images).values()))
        rest = torch.ones(len(folder), dtype=torch.bool).index_fill_(0, kept, False).nonzero().flatten()
        for batch in folder.stream(subject.preprocessing.geometry, 256, rest, progress=report):
            yield batch.images, batch.labels
