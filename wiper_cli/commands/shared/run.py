"""What scan, purify, verify and inspect share on the parent's side: gate, child, document, reports, exit code."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from formats import Edit, FormatError, Source
from formats.identify import MAX_FILE, MAX_WHOLE
from formats.write import DATA_NAME
from wiper_cli.audit.answers import LongAnswer
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.ignore import Ignores
from wiper_cli.commands.shared.options import Settings
from wiper_cli.commands.shared.remote import Place, external_at, read_at
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.reports import MOST, Style, outputs, read, render, style_of
from wiper_cli.reports.story import asides
from wiper_cli.scratch import read_whole, resolved, write_whole
from wiper_cli.verdict import ExitCode, Problem, combine
from wiper_cli.worker.confinement import Bounds, Isolation
from wiper_cli.worker.gate import GateAnswer, GateJob, WriteJob, bounds
from wiper_cli.worker.parent import ask, lay_out, private_copy
from wiper_cli.worker.protocol import Job
from wiper_cli.worker.watch import INTERRUPTED, SHARE, Allowance, free_memory

A = TypeVar("A")
L = TypeVar("L", bound=LongAnswer)


@dataclass(frozen=True)
class Subject:
    """One model file behind the gate: its bytes, what they are, and the private copy a child may open."""

    path: Place
    source: Source
    gated: GateAnswer
    copy: Path


@dataclass
class Run:
    """One command over its models."""

    command: str
    settings: Settings
    display: Display
    ignores: Ignores | None = None
    #: What was typed, for the report.
    arguments: Sequence[str] = field(default_factory=lambda: sys.argv[1:])
    #: How many models are worked on at once; set when the user ends all work.
    beside: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    isolation: Isolation = field(default_factory=Isolation)
    #: Of the model at hand, as this process read it.
    digest: str | None = None
    _began: float = field(default_factory=time.monotonic)

    @contextmanager
    def subject(self, path: Place, document: Document | None = None) -> Iterator[Subject]:
        """Reads the file once and has a child judge it; every later step uses the private copy."""
        room = int(SHARE * free_memory() / self.beside) or MAX_FILE
        source = read_at(path, min(MAX_FILE, room))
        if document is not None:
            document["model"].update(sha256=source.sha256, size=source.size)
        with private_copy(source) as copy:
            gated = self.ask(GateJob(model=copy), bounds(source))
            if gated.locations:
                source = replace(
                    source, files=external_at(path, gated.locations, min(room, MAX_WHOLE) - source.size)
                )
                lay_out(source, copy.parent)
                gated = self.ask(GateJob(model=copy, complete=True), bounds(source))
            self.digest = source.digest
            if document is not None:
                documents.describe(document, source, gated)
            yield Subject(path, source, gated, copy)

    def written(self, subject: Subject, edit: Edit, name: str) -> dict[str, bytes]:
        """The subject's files with the edit's values, as :func:`formats.own_names` gives them."""
        source = subject.source
        job = WriteJob(model=subject.copy, edit=edit, name=name)
        answer = self.ask(job, bounds(source, copies=16))
        files = {given: file.data for given, file in answer.files.items()}
        model, outside = files.pop(name, b""), sorted(map(len, files.values()))
        # The names of what is outside stand in the model, once a tensor.
        if (
            (not files and len(model) != len(source.data))
            or outside != sorted(map(len, source.files.values()))
            or not all(map(DATA_NAME.fullmatch, files))
        ):
            raise Problem(
                "The file was written with other parts or lengths; nothing was kept.", ExitCode.NO_VERDICT
            )
        return {**files, name: model}

    def examined(self, subject: Subject) -> dict[str, Any]:
        """What every :class:`wiper_cli.audit.requests.Examination` of the subject's private copy asks."""
        return {"model": subject.copy, **self.settings.examination()}

    def ask(
        self, job: Job[A], bounds: Bounds | None = None, interim: Callable[[A], None] = lambda _: None
    ) -> A:
        """The answer of a fresh child to ``job``; with ``bounds`` it opens no model. ``interim`` hears what stands if
        no other answer follows."""
        settings, display = self.settings, self.display
        self.interruptible()
        allowed = Allowance(settings.timeout or math.inf, self._began, self.stop, self.beside)
        return ask(
            job, display.progress, display.log, allowed, settings.isolation,
            self.isolated if bounds is None else lambda _: None, bounds, interim,
        )  # fmt: skip

    def ask_at_length(self, job: Job[L], keep: Callable[[L], None] = lambda _: None) -> L:
        """The answer to ``job``, or, where the work ends before it, what stands until then. Its plan is said first.
        ``keep`` is told every answer but the last of work that ends early."""
        latest: list[L] = []

        def heard(answer: L) -> None:
            if not latest and answer.plan and not self.settings.quiet:
                (self.display.say if self.beside == 1 else self.display.log)(answer.plan)
            latest[:] = [answer]
            keep(answer)

        try:
            answer = self.ask(job, interim=heard)
            keep(answer)
            return answer
        except KeyboardInterrupt:
            if not latest:
                raise
            self.stop.set()
            return latest[0].ended(INTERRUPTED)
        except Problem as problem:
            if not latest or problem.exit_code is not ExitCode.NO_VERDICT:
                raise
            return latest[0].ended(str(problem))

    def interruptible(self) -> None:
        """Raises :class:`Problem` once the user has ended all work."""
        if self.stop.is_set():
            raise Problem(INTERRUPTED, ExitCode.NO_VERDICT)

    def in_time(self) -> None:
        """As :meth:`interruptible`, and where the time for this file is over: for long work of this process."""
        self.interruptible()
        if time.monotonic() - self._began > (self.settings.timeout or math.inf):
            raise Problem("The time is over.", ExitCode.NO_VERDICT)

    def isolated(self, isolation: Isolation) -> None:
        """Of several children that opened a model the report tells of the one that was confined least."""
        if not self.isolation.layers or self.isolation.confined:
            self.isolation = isolation

    def suppress(self, document: Document) -> None:
        """Marks the findings that somebody answers for."""
        if self.ignores:
            self.ignores.apply(document, self.digest)
            self.ignores.tell([document], last=False)

    def document(self, path: Place, work: Callable[[Document], None]) -> Document:
        """One document for one model; a refusal becomes its sentence, never a traceback, and whatever else is raised
        ends the examination of this file alone."""
        document = documents.begin(self.command, self.arguments, path, self.settings.seed)
        self._began, self.isolation, self.digest = time.monotonic(), Isolation(), None
        try:
            work(document)
        except Exception as error:
            if not isinstance(error, (FormatError, Problem)):
                if os.environ.get("WIPER_DEBUG"):
                    raise
                said = f"Internal failure ({type(error).__name__}): {error}; set WIPER_DEBUG=1 to see where."
                error = Problem(said, ExitCode.NO_VERDICT)
            documents.refuse(document, error, self.settings.fail_on, self.suppress)
            document["exit_code"] = int(
                documents.spare(ExitCode(document["exit_code"]), self.settings.exit_zero)
            )
        document["isolation"] = self.isolation.as_dict()
        document["timing"]["total"] = round(time.monotonic() - self._began, 3)
        return document


def require_clean(settings: Settings) -> None:
    """The clean folder is needed and looked at before anything heavy starts."""
    if settings.clean is None:
        raise Problem("A folder of clean images is needed: --clean DIR.")
    require_folder(settings.clean, "The clean folder")


def require_folder(folder: Path, called: str) -> None:
    """Raises :class:`Problem` unless ``folder`` is one that can be read."""
    if not folder.exists():
        raise Problem(f"{called} {folder} does not exist.")
    if not folder.is_dir():
        raise Problem(f"{folder} is not a folder.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise Problem(f"{called} {folder} cannot be read.")


def read_reports(path: Path) -> list[dict[str, Any]]:
    """The reports in a JSON file, checked; raises :class:`Problem`."""
    text = read_whole(path, MOST)
    try:
        return read(text)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from None


def finish(run: Run, reports: Sequence[Document], told: bool = False, written: bool = False) -> ExitCode:
    """Writes every requested output (nothing where none is, and the reports are ``written`` elsewhere), says the
    verdicts on stderr unless they were ``told``, and returns the exit code: no verdict, if nothing worse, where the
    user ended the run before all models were examined."""
    if run.ignores:
        run.ignores.tell(reports)
    try:
        if run.settings.output_formats or not written:
            deliver(run.settings.output_formats, reports)
    finally:
        if not told:
            _say_verdicts(run, reports)
    ended = [ExitCode.NO_VERDICT] if run.stop.is_set() else []
    return combine([*ended, *(report["exit_code"] for report in reports)])


def _say_verdicts(run: Run, reports: Sequence[Document]) -> None:
    # Somebody who has just read the report on the terminal need not read its sentence again.
    shown = sys.stdout.isatty() and any(
        output.format == "text" and output.path is None for output in outputs(run.settings.output_formats)
    )
    for report in [] if shown else reports:
        run.display.say(" ".join([f"{report['model']['path']}: {report['sentence']}", *asides(report)]))


def deliver(requested: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> None:
    """Renders each ``FORMAT[=FILE]``; files are written whole or not at all. The default is text on stdout.

    Raises the first :class:`Problem` after all others have been written.
    """
    failed = []
    for output in outputs(requested):
        try:
            if output.path is None:
                _print(render(output.format, reports, style_of(sys.stdout, os.environ)))
            else:
                write_whole(output.path, render(output.format, reports, Style(comment=True)).encode())
        except Problem as problem:
            failed.append(problem)
    if failed:
        raise failed[0]


def _print(text: str) -> None:
    """Writes to standard output; where its reader went away, the other outputs and the exit code still count."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Problem(f"The report cannot be written to standard output: {error.strerror}.") from error


def check_requested(requested: Sequence[str], taken: Sequence[Place] = ()) -> None:
    """Refuses, before any work is done, a mistyped format or a file that could not be written.

    ``taken``: files of this run that a report must not replace: the models, the purified file.
    """
    for output in outputs(requested):
        if output.path is None:
            continue
        path = resolved(output.path)
        if not path.parent.is_dir():
            raise Problem(f"The folder of {output.path} does not exist.")
        if path.is_dir():
            raise Problem(f"{output.path} is a folder; name a file for the {output.format} report.")
        if path in [Path(os.path.realpath(other)) for other in taken if isinstance(other, Path)]:
            raise Problem(f"The {output.format} report would replace {output.path}; name another file.")
        if not os.access(path.parent if not path.exists() or path.is_file() else path, os.W_OK):
            raise Problem(f"{output.path} cannot be written: permission denied.")
