"""Many independent pieces of work, one after the other or in several processes. Imports no torch."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from wiper_cli.tables.plugins import inherit
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import launcher

T = TypeVar("T")
R = TypeVar("R")


def share_of_cores(jobs: int) -> int:
    """Threads for each of ``jobs`` processes."""
    return max(1, (os.cpu_count() or 1) // jobs)


def fan_out(todo: Sequence[T], work: Callable[[T], R], jobs: int = 1) -> Iterator[tuple[T, R | Problem]]:
    """Each piece with its outcome, as they finish; a :class:`Problem` of one piece is its outcome and stops no
    other. ``jobs`` 1 works in this process; else ``work`` must be importable, and runs in fresh processes.

    A process that dies takes the pieces then at work with it; the others go on in new processes.
    """
    if jobs == 1:
        for piece in todo:
            try:
                yield piece, work(piece)
            except Problem as problem:
                yield piece, problem
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(share_of_cores(jobs)))
    waiting = deque(todo)
    while waiting:
        yield from _one_pool(waiting, work, jobs)


def _one_pool(waiting: deque[T], work: Callable[[T], R], jobs: int) -> Iterator[tuple[T, R | Problem]]:
    """Empties ``waiting`` until it is empty or a process died. No more pieces are handed over than are at work."""
    with launcher.exported():
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=inherit)
    running: dict[Future[R], T] = {}
    died = False
    try:
        while running or (waiting and not died):
            while waiting and len(running) < jobs and not died:
                piece = waiting.popleft()
                try:
                    with launcher.exported():  # it may start a process
                        running[pool.submit(work, piece)] = piece
                except BrokenProcessPool:
                    waiting.appendleft(piece)
                    died = True
            finished, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                piece = running.pop(future)
                try:
                    outcome: R | Problem = future.result()
                except Problem as problem:
                    outcome = problem
                except BrokenProcessPool:
                    died = True
                    outcome = Problem(
                        "Its process died, perhaps out of memory; try fewer --jobs.", ExitCode.NO_VERDICT
                    )
                yield piece, outcome
    except BaseException:
        for process in (pool._processes or {}).values():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
