"""The child's side: reads one job from stdin, computes, answers on what was stdout. Holds no pen."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import IO, Any

from formats import FormatError, Hostile, Unreadable, Unsupported
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.protocol import receive, send_json, send_tensors

#: Seconds between two progress frames of one stage.
_PROGRESS_EVERY = 0.1


def main() -> int:
    """Runs one job. Whatever libraries print goes to stderr; the answer has the channel to itself."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job, payload = receive(sys.stdin.buffer), receive(sys.stdin.buffer)
    if job is None or payload is None:
        return int(ExitCode.USAGE)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        from wiper_cli.audit import pipeline
        from wiper_cli.tables.plugins import inherit

        inherit()
        result, tensors = pipeline.JOBS[job[1]["job"]](job[1], payload[1], _Reporter(channel))
        for container in tensors:
            send_tensors(channel, container)
        send_json(channel, {"result": result})
    except Exception as error:
        message, code = _sentence(error)
        send_json(channel, {"problem": message, "exit_code": int(code)})
    return 0


def _sentence(error: Exception) -> tuple[str, ExitCode]:
    """One sentence and the exit code for anything that was raised."""
    if isinstance(error, Problem):
        return str(error), error.exit_code
    if isinstance(error, Hostile):
        return f"{error} [{error.rule}]", ExitCode.FINDING
    if isinstance(error, Unreadable):
        return str(error), ExitCode.USAGE
    if isinstance(error, Unsupported):
        return str(error), ExitCode.NO_VERDICT
    if isinstance(error, FormatError):
        return str(error), ExitCode.USAGE
    traceback.print_exc()
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There is not enough memory for this model and these images.", ExitCode.NO_VERDICT
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"Internal failure ({type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}): "  # noqa: PTH119
        f"{' '.join(str(error).split())[:300]}",
        ExitCode.USAGE,
    )


class _Reporter:
    """Progress that sends at most a few frames a second."""

    def __init__(self, channel: IO[bytes]) -> None:
        self._channel = channel
        self._stage = ""
        self._sent = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._sent < _PROGRESS_EVERY:
            return
        self._stage, self._sent = stage, now
        self.send({"progress": [stage, done, total]})

    def log(self, sentence: str) -> None:
        self.send({"log": sentence})

    def send(self, message: dict[str, Any]) -> None:
        send_json(self._channel, message)


def _die_with_parent() -> None:
    """The parent keeps our stdin open for as long as it lives."""
    sys.stdin.buffer.read(1)
    os._exit(int(ExitCode.NO_VERDICT))


if __name__ == "__main__":
    sys.exit(main())
