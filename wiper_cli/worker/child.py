"""The child's side: reads one request from stdin, computes, answers on what was stdout. Writes no file."""

import ctypes.util
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import IO, Any, NoReturn

from formats import FormatError, Hostile, Unreadable
from wiper_cli.audit.memory import ran_out
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import gate
from wiper_cli.worker.confinement import Bounds, Isolation, Terms, enter, seal
from wiper_cli.worker.protocol import Job, Log, Progress, ProtocolError, Refusal, receive, send

#: Seconds between two messages on the progress of one stage.
_PROGRESS_EVERY = 0.1
#: Of a child that opens a model in the usual way, without confinement.
UNCONFINED = Terms("off")


def main() -> NoReturn:
    """Answers one request. Whatever libraries print goes to stderr; the answer has the channel to itself.

    Nothing of a model is touched before this process is locked down and the parent was told how far.
    """
    terms = Terms.parse(sys.argv[1])
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    isolation = lock_down(terms)
    send(channel, isolation)
    if terms.mode == "require" and isolation.missing:
        sentence = f"--isolation require cannot be met, and the model was not opened. {isolation.note}"
        send(channel, Refusal(sentence, ExitCode.NO_VERDICT))
    else:
        serve(sys.stdin.buffer, channel, terms)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # an orderly end would wait a second for the thread that waits on stdin


def lock_down(terms: Terms) -> Isolation:
    """Confines this process, which has one thread so far. In between it imports what a job needs, above all what
    writes or starts something while it is imported; the rest may come later. The gate's own modules come first, so
    that their bytecode is kept."""
    if terms.bounds:
        gate.load()
    layers = enter(terms)
    sys.dont_write_bytecode |= terms.mode != "off"
    if terms.mode != "off" and not terms.bounds:
        # A folder that is there keeps libraries from looking for one; nothing is written to it.
        tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.sep
        ctypes.util.find_library = _no_library
        for module in ("wiper_cli.audit.pipeline", *(["torch._dynamo"] if terms.training else [])):
            import_module(module)
        with suppress(Problem):  # told when a request is served
            from wiper_cli.tables.plugins import inherit

            inherit()
    return Isolation((*layers, *seal(terms)))


def _no_library(name: str) -> None:
    """``ctypes.util.find_library`` where it may run neither ldconfig nor a compiler, and not write for one either.
    CUDA's bindings, which a torch that was built for CUDA imports, ask it and know what to do without."""


def serve(stdin: IO[bytes], channel: IO[bytes], terms: Terms = UNCONFINED) -> None:
    """Reads a job and sends its answer, or a :class:`Refusal` for whatever was raised."""
    try:
        job = receive(stdin, *_jobs(terms))
        if job is None:
            return
        threading.Thread(target=_die_with_parent, args=[stdin], daemon=True).start()
        send(channel, _answer(job, Reporter(channel), lambda answer: send(channel, answer)))
    except Exception as error:
        send(channel, refusal(error, terms))


def _jobs(terms: Terms) -> tuple[type[Job[Any]], ...]:
    """What this process may be asked."""
    if terms.bounds:
        return gate.JOBS
    from wiper_cli.audit.requests import REQUESTS
    from wiper_cli.tables.plugins import inherit

    inherit()
    return REQUESTS


def _answer(job: Any, report: "Reporter", interim: Callable[[Any], None]) -> Any:
    if isinstance(job, gate.JOBS):
        return gate.run(job)
    from wiper_cli.audit.pipeline import run

    return run(job, report, interim)


def refusal(error: Exception, terms: Terms = UNCONFINED) -> Refusal:
    """One sentence and the exit code for anything that was raised."""
    if isinstance(error, Problem):
        return Refusal(str(error), error.exit_code, findings=error.findings, verdict=error.verdict)
    if isinstance(error, Hostile):
        return Refusal(str(error), ExitCode.FINDING, error.rule, error.place)
    if isinstance(error, FormatError):
        return Refusal(str(error), ExitCode.USAGE if isinstance(error, Unreadable) else ExitCode.NO_VERDICT)
    if isinstance(error, ProtocolError):
        return Refusal(
            f"The worker process was asked something that it does not know: {error}.", ExitCode.USAGE
        )
    if isinstance(error, PermissionError) and terms.mode != "off":
        return Refusal(
            f"The process that opens the model was refused {error.filename or 'what it asked of the system'}: it may "
            "read what the command names and nothing else. Where that is too little, --isolation off lifts it.",
            ExitCode.NO_VERDICT,
        )
    if terms.bounds:
        return _unfinished(error, terms.bounds)
    traceback.print_exc()
    if ran_out(error):
        return Refusal("There is not enough memory for this model and these images.", ExitCode.NO_VERDICT)
    return Refusal(
        f"Internal failure ({_where(error)}): {' '.join(str(error).split())[:300]}", ExitCode.USAGE
    )


def _unfinished(error: Exception, bounds: Bounds) -> Refusal:
    """Of a file whose bytes a reader of ours failed on: whoever made it, nothing is known of it."""
    why = (
        f"that takes more than {bounds.memory >> 20} MiB" if isinstance(error, MemoryError) else _where(error)
    )
    traceback.clear_frames(error.__traceback__)  # what was read may fill all memory
    return Refusal(f"The file was not read to its end: {why}.", ExitCode.NO_VERDICT)


def _where(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {os.path.basename(place.filename)}:{place.lineno}"  # noqa: PTH119


class Reporter:
    """Progress that sends at most a few messages a second."""

    def __init__(self, channel: IO[bytes]) -> None:
        self._channel = channel
        self._stage = ""
        self._sent = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._sent < _PROGRESS_EVERY:
            return
        self._stage, self._sent = stage, now
        send(self._channel, Progress(stage, int(done), int(total)))

    def log(self, sentence: str) -> None:
        send(self._channel, Log(sentence))


def _die_with_parent(stdin: IO[bytes]) -> None:
    """The parent keeps our stdin open for as long as it lives."""
    stdin.read(1)
    os._exit(int(ExitCode.NO_VERDICT))


if __name__ == "__main__":
    main()
