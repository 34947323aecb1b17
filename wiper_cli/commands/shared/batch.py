"""Several models, one after the other or side by side: each has its own confined process, and ends no other.

What waits are threads of this process; what works are the children that they ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.run import Run
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.watch import INTERRUPTED


@dataclass(frozen=True)
class Outcome:
    """``digest``: of the model as it was read, if it was."""

    document: Document
    digest: str | None


#: Fills the document of one model.
Work = Callable[[Run, Path, Document], None]


def each(run: Run, models: Sequence[Path], work: Work, jobs: int = 1) -> Iterator[tuple[int, Outcome]]:
    """The number of every model with its outcome, as they end. After an interrupt what is under way ends with what
    stands, and nothing else begins; ``run.stop`` is set then. With nothing that stands KeyboardInterrupt is raised."""
    jobs = min(jobs, len(models))
    run = replace(run, beside=max(1, jobs))
    if jobs > 1:
        yield from _side_by_side(run, models, work, jobs)
        return
    for number, path in enumerate(models):
        if run.stop.is_set():
            return
        if len(models) > 1:
            run.display.subject(path.name)
        try:
            outcome = _one(run, path, work)
        except KeyboardInterrupt:
            if not number:
                raise
            run.stop.set()
            outcome = _one(run, path, _interrupted)
        yield number, outcome


def _side_by_side(run: Run, models: Sequence[Path], work: Work, jobs: int) -> Iterator[tuple[int, Outcome]]:
    def apart(path: Path) -> Outcome:
        with run.display.part(path.name) as display:
            return _one(replace(run, display=display), path, work)

    waiting = list(enumerate(models))[::-1]
    running: dict[Future[Outcome], int] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while running or (waiting and not run.stop.is_set()):
            try:
                while waiting and len(running) < jobs and not run.stop.is_set():
                    number, path = waiting.pop()
                    running[pool.submit(apart, path)] = number
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                if run.stop.is_set():  # asked twice
                    raise
                run.display.say("Interrupted; what is under way ends with what it found.")
                run.stop.set()
                continue
            for future in finished:
                yield running.pop(future), future.result()


def _one(run: Run, path: Path, work: Work) -> Outcome:
    own = replace(run)
    document = own.document(path, lambda document: work(own, path, document))
    return Outcome(document, own.digest)


def _interrupted(run: Run, path: Path, document: Document) -> None:
    raise Problem(INTERRUPTED, ExitCode.NO_VERDICT)


def in_order(run: Run, models: Sequence[Path], work: Work, jobs: int = 1) -> list[Outcome]:
    """The outcomes of :func:`each` in the order of the models; each is told as it ends where several are under way."""
    found: dict[int, Outcome] = {}
    for number, outcome in each(run, models, work, jobs):
        found[number] = outcome
        if min(jobs, len(models)) > 1:
            run.display.progress("models", len(found), len(models))
            said = outcome.document
            run.display.say(f"[{len(found)} of {len(models)}] {said['model']['path']}: {said['sentence']}")
    return [found[number] for number in sorted(found)]
