"""Renders docs/findings.md: its sentences from docs/findings.template.md, its numbers from committed results.

    python -m benchmarks.findings            # writes docs/findings.md
    python -m benchmarks.findings --check    # exit code 1 where it differs

In the template ``[[TABLE | GRID | TREATMENT | MEASURE | STATISTIC]]`` is a number of :mod:`wiper_cli.bench.plans` at
the scale tiny: GRID begins the title of a grid, TREATMENT is a row's title, MEASURE a name of
:data:`wiper_cli.bench.measures.MEASURES`, "before." in front of it for what held before; STATISTIC is mean (over the
attacks, the default), min, max, sum, refused (so many attacks the method refused), or the title of one attack. Where a
cell of them lacks, "not run" stands; where a method refused a model, "refused".
``[[FILE.json | KEY.KEY | FORMAT]]`` is a number of another committed result.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from wiper_cli.bench.matrix import Grid, Table
from wiper_cli.bench.measures import MEASURES, STALE, untouched
from wiper_cli.bench.plans import find
from wiper_cli.bench.standing import Standing
from wiper_cli.bench.store import Store

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
TEMPLATE, PAGE = ROOT / "docs" / "findings.template.md", ROOT / "docs" / "findings.md"
PLACE = re.compile(r"\[\[([^\[\]]+)\]\]")


#: Over the attacks of a grid.
REDUCED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "min": min,
    "max": max,
    "sum": sum,
}


class Missing(Exception):
    """A place of the template that no plan or committed file knows."""


def render(template: str) -> str:
    """The page; a number that was measured before a change is marked. Raises :class:`Missing`."""
    text = PLACE.sub(lambda match: number(match[1]), template)
    if STALE in text:
        text += f"\n{STALE} Measured before a change; the page of the table says which.\n"
    return text


def number(place: str) -> str:
    """What stands between the brackets, as text. Raises :class:`Missing`."""
    first, *rest = (part.strip() for part in place.split("|"))
    if first.endswith(".json"):
        return _of_file(first, *rest)
    return _of_cells(first, *rest)


def _of_file(name: str, path: str, form: str = "") -> str:
    found = json.loads((ROOT / name).read_bytes())
    for key in path.split("."):
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError):
            raise Missing(f"{name} has no {path}") from None
    return format(found, form)


def _of_cells(name: str, title: str, treatment: str, measure: str, statistic: str = "mean") -> str:
    grid, standing = _grid(find(name), title), _standing(name)
    plain = measure.removeprefix("before.")
    own = {e.attack.title: e for e in standing.entries(grid) if e.treatment.title == treatment}
    if not own or plain not in MEASURES or statistic not in (*own, *REDUCED, "refused"):
        raise Missing(f"{name}, {title}, {treatment}: there is no {measure} or no {statistic}")
    if statistic in own:
        own = {statistic: own[statistic]}
    refused = [attack for attack, entry in own.items() if standing.all_of(entry) and not standing.of(entry)]
    if statistic == "refused":
        return str(len(refused))
    values, mark = [], ""
    for attack, entry in own.items():
        if attack in refused:
            return "refused"
        outcomes = standing.of(entry)
        mark = STALE if any("stale" in outcome for outcome in outcomes) else mark
        if plain != measure:
            outcomes = [untouched(outcome) for outcome in outcomes]
        found = [value for outcome in outcomes if (value := MEASURES[plain].of(outcome)) is not None]
        if not found:
            return "not run"
        values.append(statistics.fmean(found))
    return f"{REDUCED.get(statistic, statistics.fmean)(values):.{MEASURES[plain].digits}f}{mark}"


def _grid(table: Table, title: str) -> Grid:
    found = [grid for grid in table.grids if grid.title.startswith(title)]
    if len(found) != 1:
        raise Missing(f"{table.name} has {len(found)} grids that begin with {title!r}")
    return found[0]


@lru_cache(maxsize=32)
def _standing(name: str) -> Standing:
    return Standing.read(find(name), Store(RESULTS), (1,))


def main() -> int:
    """Writes the page, or says with 1 that it is not the committed one."""
    text = render(TEMPLATE.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        return int(text != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
