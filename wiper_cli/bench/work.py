"""From a table to cells that stand: what is missing is run, several at once, and nothing twice. Imports no torch."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wiper_cli.bench import identity
from wiper_cli.bench.cells import Cell
from wiper_cli.bench.store import Place, Store
from wiper_cli.jobs.local import fan_out
from wiper_cli.jobs.ray import Fleet
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import Problem

Say = Callable[[str], None]


def missing(cells: Sequence[Cell], store: Store, retry: bool = False, zoo: Path | None = None) -> list[Cell]:
    """Those without an outcome that holds; with ``retry`` also those that were refused. Model files are compared where
    they are in ``zoo``."""
    return [
        cell for cell in cells if status(cell, store, zoo) in ("missing", "stale", "refused")[: 2 + retry]
    ]


def changed(cell: Cell, store: Store, zoo: Path | None = None) -> tuple[str, ...]:
    """What has changed since its outcome, if it has one, was measured."""
    outcome = store.read(cell)
    return () if outcome is None else identity.changes(cell, outcome, identity.sha256_of(zoo, cell))


def status(cell: Cell, store: Store, zoo: Path | None = None) -> str:
    """``missing``, ``stale``, ``refused`` or ``stands``."""
    outcome = store.read(cell)
    if outcome is None:
        return "missing"
    if changed(cell, store, zoo):
        return "stale"
    return "refused" if "refused" in outcome else "stands"


def complete(
    cells: Sequence[Cell],
    place: Place,
    jobs: int = 1,
    progress: Progress = silent,
    say: Say = lambda sentence: None,
    retry: bool = False,
    fleet: Fleet | None = None,
) -> list[Problem]:
    """Runs every cell that has no outcome that holds, ``jobs`` at once or on a ``fleet``; returns what went wrong,
    which stops no other cell.

    Skipped, and said: cells of specimens that the zoo lacks, and settings that a method does not have.
    """
    store, failures = place.store, list[Problem]()
    identity.forget_models()
    store.merge()
    todo = missing(cells, store, retry, place.zoo)
    if len(todo) < len(cells):
        say(f"{len(cells) - len(todo)} of {len(cells)} cells stand already.")
    changes = Counter(change for cell in todo for change in changed(cell, store, place.zoo))
    for change, count in sorted(changes.items()):
        say(f"{count} cells are run again, since something has changed: {change}.")
    runnable = _runnable(todo, place, say)
    scans = {cell.scan(): None for cell in runnable if cell.uses_scan}
    first = missing(list(scans), store, retry, place.zoo)
    done, total = 0, len(first) + len(runnable)
    work = partial(_run, place=place)
    try:
        for wave in (first, runnable):
            for cell, outcome in fleet.fan_out(wave, work) if fleet else fan_out(wave, work, jobs):
                done += 1
                if isinstance(outcome, Problem):
                    failures.append(outcome)
                    say(f"[{done}/{total}] {cell.id}: {outcome}")
                else:
                    if fleet and store.read(cell) != outcome:
                        store.write(cell, outcome)  # shared storage may show late what another machine wrote
                    say(f"[{done}/{total}] {in_short(cell, outcome)}")
                progress("bench", done, total)
    finally:
        store.merge()
    return failures


def _run(cell: Cell, place: Place) -> dict[str, Any]:
    from wiper_cli.bench.running import run

    try:
        return run(cell, place)
    except Problem:
        raise
    except Exception as error:  # one method's mistake may not stop a night's work
        if os.environ.get("WIPER_DEBUG"):
            raise
        raise Problem(
            f"Internal failure ({type(error).__name__}): {error}; set WIPER_DEBUG=1 to see where."
        ) from error


def _runnable(todo: Sequence[Cell], place: Place, say: Say) -> list[Cell]:
    from wiper_cli.zoo.holdouts import is_held_out, refusal
    from wiper_cli.zoo.specimen import MANIFEST, read_manifest

    absent = Counter(cell.specimen for cell in todo if not (place.zoo / cell.specimen / MANIFEST).is_file())
    for specimen, count in sorted(absent.items()):
        say(f"Skipped {count} cells: the zoo has no {specimen}; 'wiper zoo build' makes it.")
    here = {cell.specimen for cell in todo} - absent.keys()
    held = set[str]()
    if not place.judge:
        held = {one for one in here if is_held_out(read_manifest(place.zoo / one)["recipe"])}
    for specimen in sorted(held):
        say(f"Skipped: {refusal([specimen])}")
    kept = []
    sentences: Counter[str] = Counter()
    for cell in todo:
        if cell.specimen in absent or cell.specimen in held:
            continue
        try:
            cell.resolved()
            kept.append(cell)
        except Problem as problem:
            sentences[str(problem)] += 1
    for sentence, count in sentences.items():
        say(f"Skipped {count} cells: {sentence}")
    return kept


def in_short(cell: Cell, outcome: dict[str, Any]) -> str:
    """One line of figures for people."""
    if "refused" in outcome:
        return f"{cell.id}: refused. {outcome['refused']}"
    parts = []
    for key in ("acc", "asr", "ra"):
        sides = [outcome.get(when, {}).get(key) for when in ("before", "after")]
        if all(sides):
            old, new = (100 * side["value"] for side in sides)
            parts.append(f"{key.upper()} {old:.1f} -> {new:.1f}")
    seconds = f"{outcome['seconds']:.1f} s"
    return f"{cell.id}: {', '.join([*parts, seconds])}"
