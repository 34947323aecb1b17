"""The parent's eye on a child: its time, its memory, its threads, what it writes to stderr. Standard library only.

Nothing here needs the child's help, whose interpreter may be held by a model. Limits on address space would not do:
torch reserves far more than it uses.
"""

import math
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from wiper_cli.worker.confinement import Layer

#: Of the memory that is free, the share that a child may take.
SHARE = 0.8
#: Said of what was under way when the user ended it.
INTERRUPTED = "It was interrupted."
#: Most that is read from a child's stderr, and what is kept of its end.
STDERR_LIMIT, STDERR_TAIL = 16 << 20, 4000
#: Seconds between two looks.
_EVERY = 0.05


class Allowance(NamedTuple):
    """``seconds``, which several children of one file may share, from ``began`` (``time.monotonic``) on. ``stop``: set
    when the user ends all work. ``beside``: how many children work at once, each with its share of the machine."""

    seconds: float = math.inf
    began: float = 0.0
    stop: threading.Event | None = None
    beside: int = 1

    @property
    def cores(self) -> int:
        """Threads of each child."""
        return max(1, (os.cpu_count() or 1) // self.beside)


class Watch:
    """Kills ``child`` at the first bound that it crosses, and says which in :attr:`reason`; a context manager, at the
    end of which the child and its pipes are gone.

    ``bounded``: whether memory and threads are watched too.
    """

    def __init__(self, child: subprocess.Popen[bytes], given: Allowance, bounded: bool = True) -> None:
        self._child, self._given = child, given
        self.memory = int(SHARE * free_memory() / given.beside) if bounded else None
        #: Several pools of a thread for each core, and some more.
        self.threads = 64 + 8 * (os.cpu_count() or 1)
        self.reason: str | None = None
        self.said = b""
        self._over = threading.Event()
        self._workers = [threading.Thread(target=work, daemon=True) for work in (self._look, self._listen)]

    @property
    def layer(self) -> Layer:
        """Whether memory is bounded, for the report."""
        if not self.memory:
            return Layer("memory", False, f"not on {sys.platform}")
        return Layer("memory", True, f"at most {self.memory / 2**30:.1f} GiB and {self.threads} threads")

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._child.kill()
        self._child.wait()
        for worker in self._workers:
            worker.join(10)
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            with suppress(OSError):  # the child may be gone with our last words unread
                if pipe:
                    pipe.close()

    def _kill(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._child.kill()

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            seconds, began, stop, _ = self._given
            if stop and stop.is_set():
                self._kill(INTERRUPTED)
            if time.monotonic() - began > seconds:
                self._kill(f"The time of {seconds:g} s is spent without a result; allow more with --timeout.")
            memory, threads = usage(self._child.pid) if self.memory else (0, 0)
            if self.memory and memory > self.memory:
                self._kill(
                    f"The worker process was ended when it took {memory / 2**30:.1f} GiB of memory, "
                    f"{100 * SHARE:.0f} % of what was free."
                )
            if threads > self.threads:
                self._kill(f"The worker process was ended when it started {threads} threads.")

    def _listen(self) -> None:
        assert self._child.stderr is not None
        heard = 0
        while part := os.read(self._child.stderr.fileno(), 1 << 16):
            self.said = (self.said + part)[-STDERR_TAIL:]
            heard += len(part)
            if heard > STDERR_LIMIT:
                self._kill(f"The worker process was ended when it had written {heard >> 20} MiB of messages.")


def usage(pid: int) -> tuple[int, int]:
    """Memory in bytes and threads of a process; zeros where it is gone. What was swapped out counts, and the tables
    of pages, which reading large empty arrays fills alone."""
    status: dict[str, str] = {}
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    memory = sum(int(status.get(name, "0").split()[0]) << 10 for name in ("VmRSS", "VmSwap", "VmPTE"))
    return memory, int(status.get("Threads", "0"))


def free_memory() -> int:
    """Bytes that the machine has free, or the container allows where that is less; 0 where nobody says."""
    found = []
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
        place = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().rpartition(":")[2].strip("/\n")
        for folder in (place, *place.parents):
            with suppress(OSError, ValueError):
                found.append(int((folder / "memory.max").read_text()))
    return min(found, default=0)
