"""wiper from Python: what the commands do, with the same confined worker, as functions that return results.

    from wiper_cli.api import inspect, open_model, purify, scan, verify

    found = scan("model.onnx", "images/")
    print(found.verdict, found.sentence)        # in a notebook, `found` alone shows the HTML report

A wrong call and a file that cannot be read raise :class:`Problem`; whatever else comes of a file, a refusal included,
is a result with a verdict. Importing this loads no torch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args

from formats.errors import FormatError
from formats.hub import model_in
from wiper_cli.api.results import InspectResult, PurifyResult, Result, ScanResult, VerifyResult
from wiper_cli.audit.requests import (
    Asked,
    Examination,
    InspectRequest,
    KnownTrigger,
    PurifyRequest,
    ScanRequest,
    VerifyRequest,
)
from wiper_cli.commands.purify import perform
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.options import Settings
from wiper_cli.commands.shared.run import Run, require_clean, require_folder
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.commands.shared.transaction import reserved
from wiper_cli.detectors import DETECTORS
from wiper_cli.progress import Progress, silent
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker.confinement import Mode

if TYPE_CHECKING:
    from formats import Model

__all__ = [
    "inspect", "scan", "purify", "verify", "open_model",
    "Result", "InspectResult", "ScanResult", "PurifyResult", "VerifyResult",
    "Finding", "KnownTrigger", "Options", "Problem", "Severity", "Verdict",
]  # fmt: skip

Where = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """What every function takes by name; meanings and defaults are those of the command's options. ``progress`` is
    called with a stage, how much of it is done, and of how much (0: unknown)."""

    arch: str
    logits: str
    mean: Sequence[float]
    std: Sequence[float]
    input_size: tuple[int, int]
    resize: str
    channel_order: str
    preprocessing: Where
    classes: Where
    max_images: int
    device: str
    seed: int
    timeout: float
    isolation: Mode
    fail_on: str
    progress: Progress


def inspect(model: Where, **options: Unpack[Options]) -> InspectResult:
    """Say what a model file is; no images."""
    run = _run("inspect", model, None, options)

    def work(document: Document) -> None:
        with run.subject(_model(model), document) as subject:
            request = InspectRequest(model=subject.copy, arch=run.settings.arch, logits=run.settings.logits)
            documents.merge(document, run.ask(request))
        document.update(verdict=Verdict.NO_FINDING.value, exit_code=int(ExitCode.OK))

    return InspectResult(_done(run, model, work))


def scan(
    model: Where,
    clean: Where,
    *,
    detectors: Sequence[str] = tuple(DETECTORS),
    effort: Asked = ScanRequest.effort,
    budget: float | None = None,
    canaries: int = ScanRequest.canaries,
    explain: Where | None = None,
    **options: Unpack[Options],
) -> ScanResult:
    """Look for a backdoor that nobody described. ``clean``: folder of clean images, a sub-folder a class. ``budget``:
    seconds to choose the effort by. ``canaries``: known backdoors to plant in copies and look for, where nothing is
    found. ``explain``: folder of images that carry a trigger."""
    asked: dict[str, Any] = {
        "detectors": tuple(detectors),
        "effort": effort,
        "budget": budget,
        **({"canaries": canaries} if canaries else {}),
        "explain": _path(explain),
    }
    run = _run("scan", model, clean, options, asked)
    if explain is not None:
        require_folder(Path(explain), "The folder of triggered images")

    def work(document: Document) -> None:
        with run.subject(_model(model), document) as subject:
            documents.merge(document, run.ask(ScanRequest(**run.examined(subject), **asked)))
        documents.conclude(document, run.settings.fail_on, False)

    return ScanResult(_done(run, model, work))


def purify(
    model: Where,
    clean: Where,
    output: Where,
    *,
    method: str = next(iter(METHODS)),
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    detectors: Sequence[str] = tuple(DETECTORS),
    effort: Asked = PurifyRequest.effort,
    max_rounds: int = PurifyRequest.max_rounds,
    targets: Sequence[int] = (),
    triggered: Where | None = None,
    live: bool = PurifyRequest.live,
    max_accuracy_drop: float = PurifyRequest.max_accuracy_drop,
    accept_unverified: bool = PurifyRequest.accept_unverified,
    **options: Unpack[Options],
) -> PurifyResult:
    """Remove a backdoor; write the same kind of file to ``output``, or nothing. ``settings``: of the method
    (docs/methods.md). ``max_accuracy_drop``: a fraction, 0..1."""
    if method not in METHODS:
        raise Problem(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    try:
        purifier = METHODS[method](**settings or {})
    except TypeError as error:
        raise Problem(f"The method {method} has other settings: {error}.") from error
    asked: dict[str, Any] = {
        "detectors": tuple(detectors), "effort": effort, "max_rounds": max_rounds, "targets": tuple(targets),
        "triggered": _path(triggered), "live": live, "max_accuracy_drop": max_accuracy_drop,
        "accept_unverified": accept_unverified,
    }  # fmt: skip
    told = {"output": output, "method": method, **(settings or {})}
    run = _run("purify", model, clean, options, {**told, **asked})
    with reserved(Path(output), _model(model), force) as place:

        def work(document: Document) -> None:
            perform(run, _model(model), place, document, method=purifier, **asked)

        return PurifyResult(_done(run, model, work))


def verify(
    model: Where,
    clean: Where,
    purified: Where | None = None,
    *,
    triggers: Sequence[str] | None = None,
    trigger_files: Sequence[Where] = (),
    known: KnownTrigger | None = None,
    fit: bool = VerifyRequest.fit,
    poisoned: Where | None = None,
    target: int | None = None,
    max_asr: float = VerifyRequest.max_asr,
    **options: Unpack[Options],
) -> VerifyResult:
    """Measure accuracy and the success of triggers, before and, with ``purified``, after. ``triggers``: names of
    families, ``None`` for all. ``known``: a trigger that you have as a picture. ``max_asr``: a fraction, 0..1."""
    asked: dict[str, Any] = {
        "triggers": None if triggers is None else tuple(triggers), "trigger_files": tuple(map(Path, trigger_files)),
        "known": known, "fit": fit, "poisoned": _path(poisoned), "target": target, "max_asr": max_asr,
    }  # fmt: skip
    run = _run("verify", model, clean, options, asked)

    def work(document: Document) -> None:
        again = nullcontext() if purified is None else run.subject(_model(purified))
        with run.subject(_model(model), document) as before, again as after:
            request = VerifyRequest(**run.examined(before), purified=after.copy if after else None, **asked)
            documents.merge(document, run.ask(request))
        documents.conclude(document, run.settings.fail_on, False)

    return VerifyResult(_done(run, model, work))


def open_model(model: Where, arch: str | None = None, logits: str | None = None) -> Model:
    """The network with its addresses in the file, its head and its input, for research: :class:`formats.Model`.

    The bytes are checked in a confined process, and then opened in this one: one that passes has your rights.
    Raises ``formats.FormatError`` or :class:`Problem` for what is refused.
    """
    import formats

    with _run("inspect", model, None, {}).subject(_model(model)) as subject:
        return formats.open_model(replace(subject.source, logits=logits), arch)


class _Silent(Display):
    """Nothing on stderr; progress goes where the caller wants it."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(quiet=True)
        self._told = progress

    def progress(self, stage: str, done: int, total: int) -> None:
        self._told(stage, done, total)

    def say(self, sentence: str) -> None:
        pass


def _model(place: Where) -> Path:
    """A folder stands for the model file in it. Raises :class:`Problem` for no name, and for a folder without one."""
    path = Path(place)
    try:
        return model_in(path) if stat.S_ISDIR(path.stat().st_mode) else path
    except FileNotFoundError:  # which the run will say
        return path
    except FormatError as error:
        raise Problem(str(error)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Problem(f"{ascii(str(place))[:80]} cannot be read: {reason}.") from error


def _path(place: Where | None) -> Path | None:
    return None if place is None else Path(place)


def _run(
    command: str, model: Where, clean: Where | None, options: Options, asked: Mapping[str, Any] | None = None
) -> Run:
    given: dict[str, Any] = {name: value for name, value in options.items() if name != "progress"}
    if unknown := given.keys() - Options.__annotations__.keys():
        raise TypeError(f"{command} takes no {min(unknown)}")
    given |= {name: Path(given[name]) for name in ("preprocessing", "classes") if name in given}
    given |= {name: tuple(given[name]) for name in ("mean", "std", "input_size") if name in given}
    usual: dict[str, Any] = {
        **{field.name: field.default for field in fields(Examination) if field.default is not MISSING},
        "timeout": None, "isolation": "auto", "fail_on": "high", "exit_zero": False, "quiet": True, "verbose": False,
        "output_formats": (), "origins": {}, "clean": _path(clean),
    }  # fmt: skip
    settings = Settings(**{**usual, **given})
    if (effort := (asked or {}).get("effort")) not in (None, *get_args(Asked)):
        raise Problem(f"There is no effort {effort!r}; there are {', '.join(get_args(Asked))}.")
    if command != "inspect":
        require_clean(settings)
    arguments = _words([model], {"clean": clean, **(asked or {}), **given})
    return Run(command, settings, _Silent(options.get("progress", silent)), arguments=arguments)


def _words(positional: Sequence[Where], named: Mapping[str, Any]) -> list[str]:
    """A call as the report tells it: close to what would be typed."""
    words = [str(one) for one in positional]
    for name, value in named.items():
        if value is None or value == () or value is False:
            continue
        shown = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [shown])]
    return words


def _done(run: Run, model: Where, work: Callable[[Document], None]) -> Document:
    """The document; raises what the command would exit with 2 for."""
    document = run.document(_model(model), work)
    if run.stop.is_set():  # what stands was asked for by nobody
        raise KeyboardInterrupt
    if document["exit_code"] == ExitCode.USAGE:
        raise Problem(document["sentence"])
    return document
