"""What stands of a table: outcomes by cell, and what has changed since they were measured. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wiper_cli.bench.cells import Cell
from wiper_cli.bench.identity import changes, file_change, sha256_of
from wiper_cli.bench.matrix import Entry, Grid, Table, entries
from wiper_cli.bench.measures import Outcome, untouched
from wiper_cli.bench.store import Store


@dataclass
class Standing:
    """``outcomes``: by cell. ``before``: for the row "before", any outcome of a specimen. Where something differs now
    (:func:`wiper_cli.bench.identity.changes`), an outcome has it as ``stale``, and what is shown of it is marked."""

    scale: str
    seeds: Sequence[int]
    test_images: int | None
    outcomes: dict[Cell, Outcome] = field(default_factory=dict)
    before: dict[str, Outcome] = field(default_factory=dict)
    _entries: dict[int, tuple[Grid, list[Entry]]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        table: Table,
        store: Store,
        seeds: Sequence[int],
        test_images: int | None = None,
        zoo: Path | None = None,
    ) -> Standing:
        """Everything of ``table`` that is in ``store``; model files are compared where they are in ``zoo``."""
        made = cls(store.scale, seeds, test_images)
        for cell in (cell for grid in table.grids for entry in made.entries(grid) for cell in entry.cells):
            if cell in made.outcomes or (found := store.read(cell)) is None:
                continue
            sha256 = sha256_of(zoo, cell)
            made.outcomes[cell] = _marked(found, changes(cell, found, sha256))
            if found.get("before") and cell.file == Cell.file:
                before = _marked(untouched(found), file_change(cell, found, sha256))
                made.before.setdefault(cell.specimen, before)
        return made

    def stale(self) -> dict[str, int]:
        """What has changed, and how many outcomes it concerns."""
        return Counter(change for o in self.outcomes.values() for change in o.get("stale", ()))

    def entries(self, grid: Grid) -> list[Entry]:
        """The places of a grid at this scale and with these seeds."""
        if id(grid) not in self._entries:
            own = list(entries(grid, self.scale, self.seeds, self.test_images))
            self._entries[id(grid)] = grid, own  # the grid, too, so that no other gets its id
        return self._entries[id(grid)][1]

    def of(self, entry: Entry) -> list[Outcome]:
        """What stands of an entry, without refusals."""
        if not entry.treatment.name:
            return [self.before[entry.specimen]] if entry.specimen in self.before else []
        return [o for o in self.all_of(entry) if "refused" not in o]

    def all_of(self, entry: Entry) -> list[Outcome]:
        """The same with refusals."""
        return [self.outcomes[cell] for cell in entry.cells if cell in self.outcomes]


def _marked(outcome: Outcome, stale: tuple[str, ...]) -> Outcome:
    return {**outcome, "stale": stale} if stale else outcome
