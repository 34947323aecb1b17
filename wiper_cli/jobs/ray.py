"""Independent pieces of work on the machines of a Ray cluster (extra ``fleet``). Imports no torch.

What :func:`wiper_cli.jobs.local.fan_out` is for one machine: the same pieces, the same work, the same outcomes.
"""

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

from wiper_cli import __version__
from wiper_cli.tables.plugins import VARIABLE, activate
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import launcher

T = TypeVar("T")
R = TypeVar("R")

#: Seconds for an address to answer.
_PATIENCE = 10


@dataclass(frozen=True)
class Fleet:
    """A cluster that this process is connected to.

    ``at_once``: pieces handed over at a time; ``None``: all, and Ray starts as many as find room, on machines that
    join later, too. ``cpus``, ``gpus``: what Ray sets aside for each; a piece should use ``cpus`` threads. ``retries``:
    how often a piece begins again whose worker or machine was lost.
    """

    at_once: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 0

    def fan_out(self, todo: Sequence[T], work: Callable[[T], R]) -> Iterator[tuple[T, R | Problem]]:
        """Each piece with its outcome, as they finish. A :class:`Problem`, a worker or machine that dies, and a
        machine that cannot run ``work`` are the outcome of their piece alone. What is left when the caller stops is
        cancelled.
        """
        import ray

        attempt = ray.remote(_attempt).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries
        )
        waiting = deque(todo)
        running: dict[Any, T] = {}
        try:
            while waiting or running:
                while waiting and (self.at_once is None or len(running) < self.at_once):
                    piece = waiting.popleft()
                    running[attempt.remote(work, piece, os.environ.get(VARIABLE, ""))] = piece
                finished, _ = ray.wait(list(running), timeout=1)
                for reference in finished:
                    outcome = _outcome(reference)
                    yield running.pop(reference), outcome
        finally:
            # Once disconnected the work is gone already, and Ray would start a cluster to cancel it.
            if ray.is_initialized():
                for reference in running:
                    ray.cancel(reference, force=True)


def _attempt(work: Callable[[T], R], piece: T, plugins: str) -> R | Problem:
    try:
        activate(plugins.split())
        return work(piece)
    except Problem as problem:
        return problem


def _outcome(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        last = str(error.cause).strip().rpartition("\n")[2]
        return Problem(
            f"Its machine could not run it ({type(error.cause).__name__}: {last}); every machine needs wiper-cli "
            f"{__version__}.",
            ExitCode.NO_VERDICT,
        )
    except RayError as error:
        return Problem(
            f"Its worker or machine died ({type(error).__name__}), perhaps out of memory; the same command again "
            "runs it again.",
            ExitCode.NO_VERDICT,
        )


@contextmanager
def connect(address: str, jobs: int | None = None, device: str = "auto") -> Iterator[Fleet]:
    """The cluster at ``address`` (``auto``, ``local``, ``HOST:PORT`` or ``ray://HOST:PORT``), shared out for pieces
    on ``device``; disconnected, and a local one stopped, at the end. Raises :class:`Problem`.

    What Ray prints on stdout is dropped, and it is asked not to report its use to its makers.
    """
    if device.startswith("cuda:"):
        raise Problem("With --ray, Ray chooses the GPU of each cell: --device takes auto, cpu or cuda.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise Problem("--ray needs Ray: pip install 'ray[client]'.") from None
    _reach(address)
    terminate = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        TemporaryDirectory(prefix="wiper-", ignore_cleanup_errors=True) as empty,
    ):
        try:
            # Ray puts the folder that it is started in first on the path of every worker.
            with launcher.exported(), chdir(empty):
                ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise _unreachable(address, error, _tokens(address)) from error
        finally:
            signal.signal(signal.SIGTERM, terminate)  # Ray's own would end this process at once
        try:
            yield _shared_out(jobs, device)
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself waits minutes for an address where nothing listens."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address in ("auto", "local"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        if not parts.hostname or not parts.port:
            raise ValueError("it is not HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error


def _tokens(address: str) -> str:
    """``ray start`` asks for a token wherever it finds one, but Ray sends none to an address that was named."""
    if address in ("auto", "local") or os.environ.get("RAY_AUTH_MODE"):
        return ""
    return " If it asks for a token, set RAY_AUTH_MODE=token."


def _unreachable(address: str, error: Exception, hint: str = "") -> Problem:
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    reason = said.splitlines()[0].rstrip(".")
    return Problem(f"--ray {address}: no Ray cluster can be used there: {reason}.{hint}")


def _shared_out(jobs: int | None, device: str) -> Fleet:
    import ray

    machines = [
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    equipped = any(gpus for _, gpus in machines)
    if device == "cuda" and not equipped:
        raise Problem("--device cuda: no machine of the Ray cluster has a GPU that Ray knows of.")
    return share(machines, jobs, device != "cpu" and equipped)


def share(machines: Sequence[tuple[int, int]], jobs: int | None, on_gpu: bool) -> Fleet:
    """What each of ``jobs`` pieces gets of ``machines``, (CPUs, GPUs) of each: as many CPUs as let all of them work at
    once, at least one; with ``on_gpu`` also a GPU, or a part of one where there are more jobs than GPUs.

    Without ``jobs``: a CPU each, or a GPU each and its share of the CPUs.
    """
    if not on_gpu and jobs is None:
        return Fleet()
    to_a_gpu = 0
    wanted = jobs or 1
    if on_gpu:
        machines = [machine for machine in machines if machine[1]]
        total = sum(gpus for _, gpus in machines)
        wanted = jobs or total
        to_a_gpu = -(-wanted // total)

    def at_once(each: int) -> int:
        return sum(min(cpus // each, gpus * to_a_gpu if on_gpu else cpus) for cpus, gpus in machines)

    most = max((cpus for cpus, _ in machines), default=1)
    each = next((n for n in range(most, 1, -1) if at_once(n) >= wanted), 1)
    # Ray counts in ten-thousandths: rounded down, so that all of them fit.
    return Fleet(jobs, each, 10_000 // to_a_gpu / 10_000 if on_gpu else 0.0)
