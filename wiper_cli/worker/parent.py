"""The parent's side: a private copy of the file, one child per request, its answer or one sentence why not."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from formats import Hostile, Source
from wiper_cli.audit.requests import Examination, PurifyRequest, Request, VerifyRequest
from wiper_cli.scratch import held
from wiper_cli.verdict import ExitCode, Problem, Verdict
from wiper_cli.worker import confinement, launcher
from wiper_cli.worker.confinement import Bounds, Isolation, Mode, Terms
from wiper_cli.worker.protocol import Job, Log, Progress, ProtocolError, Refusal, Truncated, receive, send
from wiper_cli.worker.watch import Allowance, Watch

A = TypeVar("A")


@contextmanager
def private_copy(source: Source) -> Iterator[Path]:
    """A folder that only we can enter with the bytes that the gate saw; yields the model's path in it. Of a run that
    was killed the next one removes it.

    No later step opens the user's path again, so nothing can change between the check and the use.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(held(Path(tempfile.gettempdir()), "wiper-copy-"))
        except OSError as error:
            raise Problem(
                f"No temporary folder can be made ({error.strerror}); name one with room in TMPDIR."
            ) from error
        yield lay_out(source, folder)


def lay_out(source: Source, folder: Path) -> Path:
    """Writes model, external files and sidecars into ``folder``; returns the model's path."""
    name = Path(source.name).name
    try:
        for location, data in {**source.sidecars, **source.files, name: source.data}.items():
            (folder / location).write_bytes(data)
    except OSError as error:
        raise Problem(
            f"No room for a private copy of {name} in {folder.parent}: {error.strerror}; "
            "name a folder with room in TMPDIR."
        ) from error
    return folder / name


def ask(
    job: Job[A],
    progress: Callable[[str, int, int], None],
    log: Callable[[str], None],
    allowed: Allowance = Allowance(),  # noqa: B008 a named tuple
    mode: Mode = "auto",
    isolated: Callable[[Isolation], None] = lambda _: None,
    bounds: Bounds | None = None,
    interim: Callable[[A], None] = lambda _: None,
) -> A:
    """The answer of a fresh child to ``job``, checked against its declared type: the child holds the model, and what
    it says is not trusted. ``isolated`` hears how far it is confined, before it opens the model. ``bounds``: for the
    jobs of :mod:`wiper_cli.worker.gate`, which open none. ``interim`` hears every answer that is not ``complete``: it
    stands if no other follows.

    Raises Hostile, or Problem: with the child's own sentence, or ``NO_VERDICT`` when it died, was ended for what it
    took, or gave no usable answer.
    """
    given = launcher.environment(PYTHONUNBUFFERED="1", ORT_LOGGING_LEVEL="3", ORT_DISABLE_TELEMETRY="1")
    # Threads wait for each other by spinning, on a busy machine nine times as long as they work: they shall soon sleep.
    # To sleep at once (OMP_WAIT_POLICY) makes small networks slower by half where the machine is free.
    if "OMP_WAIT_POLICY" not in given:
        given.setdefault("GOMP_SPINCOUNT", "10000")
    if allowed.beside > 1:
        given.setdefault("OMP_NUM_THREADS", str(allowed.cores))
    if mode != "off":
        if not bounds:
            _compile(given)
        given = confinement.environment(given)
    device = job.device if isinstance(job, Examination) else "cpu"
    terms = Terms(mode, tuple(map(str, readable(job))), device, isinstance(job, PurifyRequest), bounds)
    child = subprocess.Popen(
        launcher.command("-m", "wiper_cli.worker.child", str(terms)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=given,
        # Ctrl-C reaches the parent alone, which then ends the child in good order.
        start_new_session=True,
    )
    watch = Watch(child, allowed, bounded=mode != "off")

    def told(isolation: Isolation) -> None:
        isolated(isolation if mode == "off" else Isolation((*isolation.layers, watch.layer)))

    answer = None
    with watch:
        try:
            answer = _converse(child, job, progress, log, told, interim)
            child.wait(timeout=30)
        except (Truncated, subprocess.TimeoutExpired):
            pass
        except ProtocolError as error:
            raise Problem(
                f"The worker process gave an answer that cannot be used: {error}.", ExitCode.NO_VERDICT
            ) from error
    if answer is not None:
        return answer
    raise Problem(watch.reason or _cause_of_death(child.returncode, watch.said, bounds), ExitCode.NO_VERDICT)


def readable(job: Job[A]) -> Iterator[Path]:
    """The paths that a job names, and the folders around model files and around a program of the user's."""
    models = [job.model, job.purified if isinstance(job, VerifyRequest) else None]
    yield from (model.parent for model in models if model)
    if isinstance(job, Request) and job.arch and ".py:" in job.arch:
        yield Path(job.arch.rpartition(":")[0]).parent
    yield from _paths(job)


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _paths(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name))


def _compile(given: dict[str, str]) -> None:
    """Has a process that opens no model write the libraries' bytecode, once: a confined one cannot, and would compile
    them every time where the installer did not."""
    torch = find_spec("torch")
    cached = Path(torch.cached) if torch and torch.cached else None
    wanting = cached and not sys.dont_write_bytecode and not cached.exists()
    if cached and wanting and os.access(cached.parents[1], os.W_OK):
        code = "import wiper_cli.audit.pipeline, torch._dynamo"
        subprocess.run(launcher.command("-c", code), env=given, capture_output=True, check=False)


def _converse(
    child: subprocess.Popen[bytes],
    job: Job[A],
    progress: Callable[[str, int, int], None],
    log: Callable[[str], None],
    isolated: Callable[[Isolation], None],
    interim: Callable[[A], None],
) -> A | None:
    """Sends the job, hears progress, returns the answer; ``None`` when the child ended without one. How far it is
    confined is the first thing that a child says; later it may be the model that speaks."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # it may have refused before it read
        send(child.stdin, job)
    isolation = receive(child.stdout, Isolation)
    if isolation is None:
        return None
    isolated(isolation)
    while (message := receive(child.stdout, Progress, Log, Refusal, job.answer)) is not None:
        if isinstance(message, Progress):
            progress(message.stage, message.done, message.total)
        elif isinstance(message, Log):
            log(message.sentence)
        elif isinstance(message, Refusal):
            if message.exit_code is ExitCode.OK or message.verdict is Verdict.NO_FINDING:
                raise ProtocolError("it refuses without a reason")
            if message.rule:
                raise Hostile(message.sentence, message.rule, message.place)
            raise Problem(message.sentence, message.exit_code, message.findings, message.verdict)
        else:
            answer: A = message
            if getattr(answer, "complete", True):
                return answer
            interim(answer)
    return None


def _cause_of_death(returncode: int | None, said: bytes, bounds: Bounds | None = None) -> str:
    if bounds and sys.platform != "win32" and returncode == -signal.SIGXCPU:
        return f"The file was not read to its end: that takes more than {bounds.seconds} s of processor time."
    if bounds and b"MemoryError" in said:  # of which Python did not recover
        return f"The file was not read to its end: that takes more than {bounds.memory >> 20} MiB."
    if sys.platform == "linux" and returncode == -signal.SIGSYS:
        return (
            "The worker process was ended by its confinement: while the model was open, something tried to write to a "
            "file. A model has no reason to; where a program of yours has (--arch), --isolation off lets it."
        )
    if returncode is not None and returncode < 0:
        reason = f"was killed by signal {-returncode}"
        if returncode == -9:
            reason += " (often: out of memory)"
    else:
        reason = f"ended with code {returncode}"
    tail = said.decode(errors="replace").strip()
    last = tail.splitlines()[-1] if tail else ""
    return f"The worker process {reason} before it had a result{': ' + last if last else ''}."
