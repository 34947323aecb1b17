"""From a table to cells that stand: what is missing is run, several at once, and nothing twice. Imports no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wiper_cli.bench.cells import Cell, Store
from wiper_cli.jobs.local import fan_out
from wiper_cli.jobs.ray import Fleet
from wiper_cli.progress import Progress, silent
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem

if TYPE_CHECKING:
    from wiper_cli.bench.running import Place

Say = Callable[[str], None]


def missing(cells: Sequence[Cell], store: Store, retry: bool = False, zoo: Path | None = None) -> list[Cell]:
    """Those without an outcome; with ``retry`` also those that were refused, with ``zoo`` also those whose file in it
    has changed since."""
    found = []
    for cell in cells:
        outcome = store.read(cell, None if zoo is None else _digest(zoo / cell.specimen, cell.file))
        if outcome is None or (retry and "refused" in outcome):
            found.append(cell)
    return found


@lru_cache(maxsize=1024)
def _digest(folder: Path, file: str) -> str | None:
    from wiper_cli.zoo.specimen import read_manifest

    try:
        found: str = read_manifest(folder)["files"][file]["sha256"]
    except (Problem, KeyError):
        return None
    return found


def complete(
    cells: Sequence[Cell],
    place: Place,
    jobs: int = 1,
    progress: Progress = silent,
    say: Say = lambda sentence: None,
    retry: bool = False,
    fleet: Fleet | None = None,
) -> list[Problem]:
    """Runs every cell that has no outcome yet, ``jobs`` at once or on a ``fleet``; returns what went wrong, which
    stops no other cell.

    Skipped, and said: cells of specimens that the zoo lacks, and settings that a method does not have.
    """
    store, failures = Store(place.results), []
    _digest.cache_clear()
    todo = missing(cells, store, retry, place.zoo)
    if len(todo) < len(cells):
        say(f"{len(cells) - len(todo)} of {len(cells)} cells stand already.")
    changed = len(todo) - len(missing(todo, store, retry))
    if changed:
        say(f"{changed} cells were measured on files that have changed since, and are run again.")
    runnable = _runnable(todo, place, say)
    scans = {cell.scan(): None for cell in runnable if cell.kind == "purify" and METHODS[cell.name].uses_scan}
    first = missing(list(scans), store, retry, place.zoo)
    done, total = 0, len(first) + len(runnable)
    work = partial(_run, place=place)
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
    from wiper_cli.zoo.specimen import MANIFEST

    absent = Counter(cell.specimen for cell in todo if not (place.zoo / cell.specimen / MANIFEST).is_file())
    for specimen, count in sorted(absent.items()):
        say(f"Skipped {count} cells: the zoo has no {specimen}; 'wiper zoo build' makes it.")
    kept = []
    sentences: Counter[str] = Counter()
    for cell in todo:
        if cell.specimen in absent:
            continue
        try:
            if cell.kind == "purify":
                cell.purifier()
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
