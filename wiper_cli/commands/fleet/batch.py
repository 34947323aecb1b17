"""Several models, one after the other or side by side: each has its own confined process, and ends no other.

What waits are threads of this process; what works are the children that they ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from formats.hub import USUAL
from wiper_cli.commands.fleet.walking import expanded
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.ignore import Ignores
from wiper_cli.commands.shared.options import Settings
from wiper_cli.commands.shared.remote import Address, Place
from wiper_cli.commands.shared.run import Run, check_requested
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.jobs.ray import Fleet
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.watch import INTERRUPTED

_USUAL = frozenset(name.rpartition("/")[2] for name in USUAL)


@dataclass(frozen=True)
class Outcome:
    """``digest``: of the model as it was read, if it was."""

    document: Document
    digest: str | None


@dataclass(frozen=True)
class Item:
    """One model and how it is examined. ``asked``: what is no :class:`Settings`, by the names of the options.
    ``folder``: name of its own in the folder of a fleet."""

    model: Place
    settings: Settings
    asked: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def label(self) -> str:
        """A short name for people: of a file that is called as all are in a hub, with that of its folder."""
        name = self.model.name
        if isinstance(self.model, Address) or name not in _USUAL:
            return name
        *_, repository, above, folder, _ = ("", "", *self.model.absolute().parts)
        if folder == "onnx":
            *_, repository, above, folder, _, _ = ("", "", "", *self.model.absolute().parts)
        return f"{repository if above == 'snapshots' else folder}/{name}"

    def absolute(self) -> Item:
        """The same from any working directory."""
        model = self.model.absolute() if isinstance(self.model, Path) else self.model
        given = {one.name: getattr(self.settings, one.name) for one in fields(self.settings)}
        paths: dict[str, Any] = {
            name: value.absolute() for name, value in given.items() if isinstance(value, Path)
        }
        if self.settings.arch and ".py:" in self.settings.arch:
            paths["arch"] = str(Path(self.settings.arch).absolute())
        return replace(self, model=model, settings=replace(self.settings, **paths))


#: Fills the document of one model.
Work = Callable[[Run, Item, Document], None]


def items(run: Run, given: Sequence[Item]) -> list[Item]:
    """One for each model: those that were named, and those in folders that were."""
    found = [
        replace(item, model=model)
        for item in given
        for model in expanded(item.model, run.ask, run.display.say)
    ]
    check_requested(run.settings.output_formats, [item.model for item in found])
    return found


def each(run: Run, models: Sequence[Item], work: Work, jobs: int = 1) -> Iterator[tuple[int, Outcome]]:
    """The number of every model with its outcome, as they end. After an interrupt what is under way ends with what
    stands, and nothing else begins; ``run.stop`` is set then. With nothing that stands KeyboardInterrupt is raised."""
    jobs = min(jobs, len(models))
    run = replace(run, beside=max(1, jobs))
    if jobs > 1:
        yield from _side_by_side(run, models, work, jobs)
        return
    for number, item in enumerate(models):
        if run.stop.is_set():
            return
        if len(models) > 1:
            run.display.subject(item.label)
        try:
            outcome = _one(run, item, work)
        except KeyboardInterrupt:
            if not number:
                raise
            run.stop.set()
            outcome = _one(run, item, _raising(Problem(INTERRUPTED, ExitCode.NO_VERDICT)))
        yield number, outcome


def _side_by_side(run: Run, models: Sequence[Item], work: Work, jobs: int) -> Iterator[tuple[int, Outcome]]:
    def apart(item: Item) -> Outcome:
        with run.display.part(item.label) as display:
            return _one(replace(run, display=display), item, work)

    waiting = list(enumerate(models))[::-1]
    running: dict[Future[Outcome], int] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while running or (waiting and not run.stop.is_set()):
            try:
                while waiting and len(running) < jobs and not run.stop.is_set():
                    number, item = waiting.pop()
                    running[pool.submit(apart, item)] = number
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                if run.stop.is_set():  # asked twice
                    raise
                run.display.say("Interrupted; what is under way ends with what it found.")
                run.stop.set()
                continue
            for future in finished:
                number = running.pop(future)
                try:
                    yield number, future.result()
                except BaseException:  # whoever asked wants no more, and waits for nobody
                    run.stop.set()
                    raise


def _one(run: Run, item: Item, work: Work) -> Outcome:
    own = replace(run, settings=item.settings)
    document = own.document(item.model, lambda document: work(own, item, document))
    return Outcome(document, own.digest)


def _less(outcome: Outcome) -> Outcome:
    return replace(outcome, document={"exit_code": outcome.document["exit_code"]})


@dataclass(frozen=True)
class _Task:
    """An item on its way to another process."""

    number: int
    item: Item
    work: Work
    command: str
    arguments: tuple[str, ...]
    ignores: Ignores | None


def on_cluster(run: Run, models: Sequence[Item], work: Work, fleet: Fleet) -> Iterator[tuple[int, Outcome]]:
    """As :func:`each`, on the machines of a cluster, where all that the items name stands at the same paths. What is
    under way at an interrupt is lost."""
    tasks = [
        _Task(number, item.absolute(), work, run.command, tuple(run.arguments), run.ignores)
        for number, item in enumerate(models)
    ]
    try:
        for task, outcome in fleet.fan_out(tasks, _there):
            if isinstance(outcome, Problem):
                outcome = _one(run, task.item, _raising(outcome))
            elif run.ignores:  # here, too, it is to be known which entries were used
                run.ignores.apply(outcome.document, outcome.digest)
            yield task.number, outcome
    except KeyboardInterrupt:
        run.stop.set()


def _there(task: _Task) -> Outcome:
    run = Run(task.command, task.item.settings, Display(quiet=True), task.ignores, task.arguments)
    return _one(run, task.item, task.work)


def _raising(problem: Problem) -> Work:
    def work(run: Run, item: Item, document: Document) -> None:
        raise problem

    return work


class Standing(Protocol):
    """Where each outcome is put as soon as it is there, before the next begins."""

    def put(self, number: int, document: Document) -> None:
        """Of the model with this number."""

    def close(self, whole: bool) -> None:
        """No more come; ``whole``: all have come."""


def in_order(
    run: Run,
    models: Sequence[Item],
    work: Work,
    jobs: int = 1,
    standing: Standing | None = None,
    hold: bool = True,
    cluster: Fleet | None = None,
) -> list[Outcome]:
    """The outcomes of :func:`each`, or on a ``cluster``, in the order of the models; each is told as it ends where more
    than one is under way, or where it is put somewhere. Unless they are to be held, no more of the documents is kept
    than their exit codes."""
    found: dict[int, Outcome] = {}
    try:
        ending = on_cluster(run, models, work, cluster) if cluster else each(run, models, work, jobs)
        for number, outcome in ending:
            if standing:
                standing.put(number, outcome.document)
            found[number] = outcome if hold else _less(outcome)
            if standing or cluster or min(jobs, len(models)) > 1:
                run.display.progress("models", len(found), len(models))
                said = outcome.document
                run.display.say(
                    f"[{len(found)} of {len(models)}] {said['model']['path']}: {said['sentence']}"
                )
    finally:
        if standing:
            standing.close(len(found) == len(models) and not run.stop.is_set())
    return [found[number] for number in sorted(found)]
