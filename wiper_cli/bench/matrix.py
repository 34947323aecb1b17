"""What a table or figure is made of, and which cells that needs at which scale. Imports no torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wiper_cli.bench.cells import DEFAULT, Cell, Kind
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem
from wiper_cli.zoo import suites
from wiper_cli.zoo.recipe import Recipe

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Scale:
    """``suite``: of the zoo. ``data``: what it has of the paper's. ``test_images``: measured on.
    ``caps``: by method and setting the most that is affordable; what exceeds it is cut, and said to be.
    ``instead``: by method, settings that change with a cut."""

    suite: str
    data: tuple[str, ...]
    test_images: int
    caps: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    instead: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


SCALES: Mapping[str, Scale] = {
    # Two cores: at most about a minute and a half a cell.
    "tiny": Scale(
        "tiny",
        ("cifar10",),
        2000,
        {
            "anp": {"steps": 400},
            "ban": {"epochs": 20},
            "bti-dbf": {"rounds": 2, "epochs": 4, "generator_epochs": 12},
            "fine-pruning": {"epochs": 50},
            "fine-tuning": {"epochs": 50},
            "ft-sam": {"epochs": 25},
            "npd": {"epochs": 20},
            "sau": {"epochs": 10},
            "tsbd": {"epochs": 15},
            "unit": {"steps": 100, "epochs": 6},
        },
        # A tenth of the steps at a constant rate: ten times the rate goes as far.
        {"sau": {"lr": 1e-3}},
    ),
    "small": Scale("small", ("cifar10",), 10_000),
    "paper": Scale("paper", ("svhn", "cifar10", "cifar100"), 10_000),
    "field": Scale("field", ("cifar10",), 10_000),
}


@dataclass(frozen=True)
class Attack:
    """A row or column of specimens. ``paper``: what the numbers beside ours call it. ``label``: of the recipe; by
    default the one without a label, else whichever there is, but none that changes labels where none should."""

    title: str
    family: str
    paper: str = ""
    label: str | None = None

    def find(self, recipes: Sequence[Recipe], data: str) -> Recipe | None:
        """Its recipe in a suite, for images of ``data``."""
        own = [
            recipe
            for recipe in recipes
            if (recipe.attack, recipe.data) == (self.family, data)
            and recipe.poisoning.get("labelling", "all-to-one") == "all-to-one"
            and (recipe.label == self.label if self.label is not None else recipe.label != "dirty")
        ]
        return min(own, key=lambda recipe: (recipe.label != "", recipe.seed), default=None)


@dataclass(frozen=True)
class Treatment:
    """What is done to a specimen. ``name``: a method or, for the kind "salience", a metric; empty: nothing, the row
    "before". ``files``, ``labels``, ``images``, ``watch``, ``live``: as in :class:`Cell`. ``paper``: what the
    numbers beside ours call it, the title by default."""

    title: str
    name: str = ""
    preset: str = "paper"
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "purify"
    file: str = "model.safetensors"
    images: int = 0
    labels: str = "folder"
    watch: bool = False
    live: bool = False
    paper: str = ""

    def cell(self, specimen: str, seed: int, scale: Scale, test_images: int | None = None) -> Cell:
        """Its cell on one specimen; settings over a cap of the scale are cut."""
        cell = Cell(
            specimen,
            self.name,
            self.kind,
            self.preset if self.kind == "purify" else DEFAULT,
            (),
            self.file,
            self.images,
            self.labels,  # type: ignore[arg-type]
            test_images or scale.test_images,
            seed,
            self.watch,
            self.live,
        )
        plain = replace(cell, settings=_differing(cell, self.settings))
        return replace(plain, settings=_differing(cell, {**self.settings, **cuts(plain, scale)}))


def _differing(cell: Cell, settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Without what the preset says anyway, so that one outcome serves two tables. Unknown settings stay."""
    try:
        own = cell.purifier() if cell.kind == "purify" else None
    except Problem:
        own = None
    return tuple(sorted((k, v) for k, v in settings.items() if getattr(own, k, None) != v))


def cuts(cell: Cell, scale: Scale) -> dict[str, float]:
    """Settings of ``cell`` that the scale cuts, and those it changes because of that, with what they become."""
    caps = scale.caps.get(cell.name, {}) if cell.kind == "purify" else {}
    if not caps:
        return {}
    try:
        settings = cell.purifier()
    except Problem:
        return {}
    cut: dict[str, float] = {key: cap for key, cap in caps.items() if getattr(settings, key) > cap}
    return cut | dict(scale.instead.get(cell.name, {})) if cut else {}


@dataclass(frozen=True)
class Grid:
    """One table: attacks by treatments. ``across``: attacks stand side by side, treatments one under the other.
    ``measures``: names of :data:`wiper_cli.bench.measures.MEASURES`. ``printed``: key in the file of numbers
    beside ours. ``split``: a column for each measure, else all in one."""

    title: str
    attacks: tuple[Attack, ...]
    treatments: tuple[Treatment, ...]
    measures: tuple[str, ...] = ("acc", "asr")
    data: str = "cifar10"
    across: bool = False
    split: bool = True
    printed: str = ""
    text: str = ""


@dataclass(frozen=True)
class Table:
    """What ``wiper bench NAME`` makes. ``drawn``: the function of :mod:`wiper_cli.bench.figures`, for figures."""

    name: str
    title: str
    grids: tuple[Grid, ...]
    drawn: str = ""


@dataclass(frozen=True)
class Entry:
    """One place of a grid. ``recipe``: ``None`` where the scale's suite has none. ``cells``: one a seed."""

    attack: Attack
    treatment: Treatment
    recipe: Recipe | None
    cells: tuple[Cell, ...]

    @property
    def specimen(self) -> str | None:
        """Its folder in the zoo."""
        return self.recipe.id if self.recipe else None


def entries(
    grid: Grid, scale: str, seeds: Sequence[int] = (1,), test_images: int | None = None
) -> Iterator[Entry]:
    """Every place of ``grid``; a "before" takes its number from any cell of the specimen and has none itself."""
    chosen = SCALES[scale]
    recipes = recipes_of(chosen.suite)
    for attack in grid.attacks:
        recipe = attack.find(recipes, grid.data) if grid.data in chosen.data else None
        for treatment in grid.treatments:
            cells = [
                treatment.cell(recipe.id, seed, chosen, test_images)
                for seed in seeds
                if recipe and treatment.name
            ]
            yield Entry(attack, treatment, recipe, tuple(cells))


def cells_of(
    table: Table, scale: str, seeds: Sequence[int] = (1,), test_images: int | None = None
) -> list[Cell]:
    """Every cell once, specimen by specimen, so that a process opens few."""
    found = {
        cell: None
        for grid in table.grids
        for entry in entries(grid, scale, seeds, test_images)
        for cell in entry.cells
    }
    return sorted(found, key=lambda cell: (cell.specimen, cell.file, cell.images, cell.labels, cell.seed))


@lru_cache(maxsize=4)
def recipes_of(suite: str) -> tuple[Recipe, ...]:
    """Of a suite that comes along."""
    return suites.read(suite).recipes


def scale_of(name: str) -> Scale:
    """Raises :class:`Problem` for a name that is none."""
    if name not in SCALES:
        raise Problem(f"There is no scale {name!r}{nearest(name, SCALES)}; there are {', '.join(SCALES)}.")
    return SCALES[name]


@lru_cache(maxsize=1)
def printed() -> dict[str, Any]:
    """Numbers of others by table: ``{where, footnotes[], values{attack{treatment[...]}}}``, footnotes resolved."""
    found: dict[str, Any] = {}
    for name in ("paper.json", "benchmark.json"):
        document = json.loads((HERE / name).read_bytes())
        for key, table in document["tables"].items():
            notes = [document["footnotes"][note] for note in table["footnotes"]]
            found[key] = {**table, "footnotes": notes, "source": document["source"]}
    return found
