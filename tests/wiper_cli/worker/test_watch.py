"""What the parent ends, and what it says of it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from wiper_cli.worker import watch
from wiper_cli.worker.watch import Allowance, Watch

needs_proc = pytest.mark.skipif(
    not watch.free_memory(), reason="this machine does not say what memory is free"
)


def watched(code, timeout=None, bounded=True):
    """The reason why a child that runs ``code`` was ended, and what it said."""
    until = Allowance(timeout, time.monotonic()) if timeout else Allowance()
    with (
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as child,
        Watch(child, until, bounded) as guard,
    ):
        child.wait(60)
    return guard.reason, guard.said


@needs_proc
def test_a_memory_bomb_is_ended(monkeypatch):
    monkeypatch.setattr(watch, "SHARE", (200 << 20) / watch.free_memory())
    bomb = "held = []\nfor _ in range(400): held.append(b'x' * (10 << 20))\nimport time; time.sleep(60)"
    reason, _ = watched(bomb)
    assert "GiB of memory" in reason
    assert watched("held = b'x' * (10 << 20)") == (None, b"")


@needs_proc
def test_tables_of_pages_count_as_memory(monkeypatch):
    """Reading one byte in 2 MiB of fresh memory maps the one page of zeros again and again: nothing is resident."""
    monkeypatch.setattr(watch, "SHARE", (100 << 20) / watch.free_memory())
    bomb = (
        "import mmap, time\nheld = []\n"
        "for _ in range(80):\n"
        "    held.append(mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))\n"
        "    held[-1].madvise(mmap.MADV_NOHUGEPAGE)\n"
        "    for at in range(0, 1 << 30, 2 << 20): held[-1][at]\n"
        "time.sleep(60)"
    )
    reason, _ = watched(bomb)
    assert "GiB of memory" in reason


@needs_proc
def test_a_thread_bomb_is_ended():
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    reason, _ = watched(bomb)
    assert "threads" in reason


def test_a_flood_of_messages_is_ended_and_its_end_is_kept():
    reason, said = watched("import sys\nwhile True: sys.stderr.write('flood ' * 10000)")
    assert "MiB of messages" in reason
    assert len(said) == watch.STDERR_TAIL
    assert b"flood flood" in said


def test_time_runs_out_although_the_interpreter_is_held():
    reason, _ = watched("import ctypes; ctypes.PyDLL(None).sleep(60)", timeout=0.2)
    assert reason == "The time of 0.2 s is spent without a result; allow more with --timeout."


def test_a_child_within_its_bounds_is_left_alone():
    assert watched("import sys; sys.stderr.write('well')", timeout=60) == (None, b"well")
    assert watched("pass", bounded=False) == (None, b"")
