"""The child's side: reads one request from stdin, computes, answers on what was stdout. Writes no file."""

import os
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from importlib import import_module
from typing import IO

from formats import FormatError, Hostile, Unsupported
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.confinement import Isolation, Terms, enter, seal
from wiper_cli.worker.protocol import Log, Progress, ProtocolError, Refusal, receive, send

#: Seconds between two messages on the progress of one stage.
_PROGRESS_EVERY = 0.1


def main() -> int:
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
        serve(sys.stdin.buffer, channel, terms.mode != "off")
    return 0


def lock_down(terms: Terms) -> Isolation:
    """Confines this process, which has one thread so far. In between it imports what a job needs, above all what
    writes or starts something while it is imported; the rest may come later."""
    layers = enter(terms)
    if terms.mode != "off":
        sys.dont_write_bytecode = True
        # A folder that is there keeps libraries from looking for one; nothing is written to it.
        tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.sep
        for module in ("wiper_cli.audit.pipeline", *(["torch._dynamo"] if terms.training else [])):
            import_module(module)
        with suppress(Problem):  # told when a request is served
            from wiper_cli.tables.plugins import inherit

            inherit()
    return Isolation((*layers, *seal(terms)))


def serve(stdin: IO[bytes], channel: IO[bytes], confined: bool = False) -> None:
    """Reads a request and sends its answer, or a :class:`Refusal` for whatever was raised."""
    try:
        from wiper_cli.audit.requests import REQUESTS
        from wiper_cli.tables.plugins import inherit

        inherit()
        request = receive(stdin, *REQUESTS)
        if request is None:
            return
        threading.Thread(target=_die_with_parent, args=[stdin], daemon=True).start()
        from wiper_cli.audit.pipeline import run

        answer = run(request, Reporter(channel))
        send(channel, answer)
    except Exception as error:
        send(channel, refusal(error, confined))


def refusal(error: Exception, confined: bool = False) -> Refusal:
    """One sentence and the exit code for anything that was raised."""
    if isinstance(error, Problem):
        return Refusal(str(error), error.exit_code)
    if isinstance(error, Hostile):
        return Refusal(f"{error} [{error.rule}]", ExitCode.FINDING)
    if isinstance(error, Unsupported):
        return Refusal(str(error), ExitCode.NO_VERDICT)
    if isinstance(error, FormatError):
        return Refusal(str(error), ExitCode.USAGE)
    if isinstance(error, ProtocolError):
        return Refusal(
            f"The worker process was asked something that it does not know: {error}.", ExitCode.USAGE
        )
    if isinstance(error, PermissionError) and confined:
        return Refusal(
            f"The process that opens the model was refused {error.filename or 'what it asked of the system'}: it may "
            "read what the command names and nothing else. Where that is too little, --isolation off lifts it.",
            ExitCode.NO_VERDICT,
        )
    traceback.print_exc()
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Refusal("There is not enough memory for this model and these images.", ExitCode.NO_VERDICT)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Refusal(
        f"Internal failure ({type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}): "  # noqa: PTH119
        f"{' '.join(str(error).split())[:300]}",
        ExitCode.USAGE,
    )


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
    sys.exit(main())
