"""The parent's side: a private copy of the file, one child per request, its answer or one sentence why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from formats import Source
from wiper_cli.audit.requests import Request
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import launcher
from wiper_cli.worker.protocol import Log, Progress, ProtocolError, Refusal, Truncated, receive, send

A = TypeVar("A")

#: What is kept of a dying child's stderr.
_STDERR_TAIL = 4000


@contextmanager
def private_copy(source: Source) -> Iterator[Path]:
    """A folder of our own (mode 0700) with the bytes that the gate saw; yields the model's path in it.

    No later step opens the user's path again, so nothing can change between the check and the use.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="wiper-"))
    except OSError as error:
        raise Problem(
            f"No temporary folder can be made ({error.strerror}); name one with room in TMPDIR."
        ) from error
    try:
        yield lay_out(source, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    request: Request[A],
    progress: Callable[[str, int, int], None],
    log: Callable[[str], None],
    timeout: float | None = None,
) -> A:
    """The answer of a fresh child to ``request``, checked against its declared type: the child holds the model, and
    what it says is not trusted.

    Raises Problem: with the child's own sentence, or ``NO_VERDICT`` when it died, ran out of time or gave no usable
    answer.
    """
    with tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            launcher.command("-m", "wiper_cli.worker.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=launcher.environment(PYTHONUNBUFFERED="1", ORT_LOGGING_LEVEL="3"),
            # Ctrl-C reaches the parent alone, which then ends the child in good order.
            start_new_session=True,
        )
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(timeout, expire) if timeout else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            answer = _converse(child, request, progress, log)
            child.wait(timeout=30)
        except Truncated:
            answer = None
        except ProtocolError as error:
            raise Problem(
                f"The worker process gave an answer that cannot be used: {error}.", ExitCode.NO_VERDICT
            ) from error
        except subprocess.TimeoutExpired:
            pass
        finally:
            if timer:
                timer.cancel()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    # The child may be gone with our last words unread.
                    with suppress(OSError):
                        pipe.close()
        if answer is not None:
            return answer
        if timed_out.is_set():
            raise Problem(
                f"The time of {timeout:g} s is spent without a result; allow more with --timeout.",
                ExitCode.NO_VERDICT,
            )
        raise Problem(_cause_of_death(child.returncode, _tail(stderr)), ExitCode.NO_VERDICT)


def _converse(
    child: subprocess.Popen[bytes],
    request: Request[A],
    progress: Callable[[str, int, int], None],
    log: Callable[[str], None],
) -> A | None:
    """Sends the request, hears progress, returns the answer; ``None`` when the child ended without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        send(child.stdin, request)
    except BrokenPipeError:
        return None
    while (message := receive(child.stdout, Progress, Log, Refusal, request.answer)) is not None:
        if isinstance(message, Progress):
            progress(message.stage, message.done, message.total)
        elif isinstance(message, Log):
            log(message.sentence)
        elif isinstance(message, Refusal):
            if message.exit_code is ExitCode.OK:
                raise ProtocolError("it refuses without a reason")
            raise Problem(message.sentence, message.exit_code)
        else:
            answer: A = message
            return answer
    return None


def _tail(stderr: Any) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _STDERR_TAIL))
    return bytes(stderr.read()).decode(errors="replace").strip()


def _cause_of_death(returncode: int | None, tail: str) -> str:
    if returncode is not None and returncode < 0:
        reason = f"was killed by signal {-returncode}"
        if returncode == -9:
            reason += " (often: out of memory)"
    else:
        reason = f"ended with code {returncode}"
    last = tail.splitlines()[-1] if tail else ""
    return f"The worker process {reason} before it had a result{': ' + last if last else ''}."
