"""Suites: lists of recipes as TOML, with ``[defaults]`` and ``[[models]]`` whose lists are crossed.

    name = "mine"
    [defaults]
    data = "cifar10"
    arch = "resnet10-patch-w16"
    schedule = { epochs = 7 }
    [[models]]
    attack = ["badnet", "blend"]
    seed = [1, 2]

Crossed are ``data``, ``arch``, ``attack``, ``seed``, ``size``, and, as fields of ``planting``, ``rate`` and
``target``. The clean twin of every attack joins by itself. Imports no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from wiper_cli.nearest import nearest
from wiper_cli.scratch import read_table
from wiper_cli.verdict import Problem
from wiper_cli.zoo.recipe import CLEAN, FILE_WORD, Recipe

CROSSED = ("data", "arch", "attack", "seed", "size", "rate", "target")
PLAIN = ("parameters", FILE_WORD, "schedule", "label")
SHIPPED = Path(__file__).resolve().parent / "suites"


@dataclass(frozen=True)
class Suite:
    """``recipes``: clean ones first, each once."""

    name: str
    recipes: tuple[Recipe, ...]


def shipped() -> list[str]:
    """Names of the suites that come along."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read(name: str) -> Suite:
    """``name``: a TOML file, or a suite that comes along. Raises :class:`Problem` for the first mistake."""
    path = Path(name)
    if not path.suffix and name in shipped():
        path = SHIPPED / f"{name}.toml"
    if not path.exists():
        raise Problem(
            f"There is no suite {name!r}{nearest(name, shipped())} (a TOML file, or one of {', '.join(shipped())})."
        )
    found = read_table(path)
    _known(found, ("name", "defaults", "models"), name)
    defaults, models = found.get("defaults", {}), found.get("models", [])
    if not isinstance(defaults, dict) or not isinstance(models, list) or not models:
        raise Problem(f"The suite {name!r} needs [[models]], and may have [defaults].")
    recipes: dict[str, Recipe] = {}
    for entry in models:
        _known(entry, CROSSED + PLAIN, name)
        for recipe in _crossed({**defaults, **entry}, defaults, entry, name):
            recipe.check()
            for one in (recipe.twin, recipe):
                if recipes.setdefault(one.id, one) != one:
                    raise Problem(
                        f"The suite {name!r} has two recipes called {one.id}; give one of them a label."
                    )
    _known(defaults, CROSSED + PLAIN, name)
    order = sorted(recipes.values(), key=lambda recipe: recipe.attack != CLEAN)
    return Suite(str(found.get("name", path.stem)), tuple(order))


def _crossed(
    whole: Mapping[str, Any], defaults: Mapping[str, Any], entry: Mapping[str, Any], name: str
) -> Iterator[Recipe]:
    merged = {
        key: {**defaults.get(key, {}), **entry.get(key, {})} for key in ("parameters", FILE_WORD, "schedule")
    }
    axes = {
        key: value if isinstance(value, list) else [value] for key, value in whole.items() if key in CROSSED
    }
    if "data" not in axes or "arch" not in axes:
        raise Problem(f"A model of the suite {name!r} has no data or no arch.")
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        poisoning = merged[FILE_WORD] | {k: chosen.pop(k) for k in ("rate", "target") if k in chosen}
        parameters, schedule, label = merged["parameters"], merged["schedule"], str(whole.get("label", ""))
        try:
            recipe = Recipe(
                **chosen, parameters=parameters, poisoning=poisoning, schedule=schedule, label=label
            )
        except TypeError as error:
            raise Problem(f"A model of the suite {name!r} is not described rightly: {error}.") from error
        yield recipe if recipe.attack != CLEAN else recipe.twin


def _known(given: Any, known: Sequence[str], name: str) -> None:
    if not isinstance(given, dict):
        raise Problem(f"The suite {name!r} is not laid out as tables.")
    for key in given:
        if key not in known:
            raise Problem(f"The suite {name!r} has an unknown key {key!r}{nearest(key, known)}.")
