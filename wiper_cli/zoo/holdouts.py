"""Kinds of backdoor that judge: nothing is tuned on them, and what runs experiments refuses them without ``--judge``.

Which of the kinds in :data:`KINDS` are held out is decided by a digest of the name, before anything is measured. The
older kinds, on which settings were chosen, are never held out. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import triggers
from triggers.poisoning import Poisoning
from wiper_cli.verdict import Problem
from wiper_cli.zoo.recipe import FILE_WORD, Recipe

#: Kinds that came after the settings were chosen: forms and families, and ways to label with an older family.
KINDS: Final = (
    "bar", "line", "dots", "ell", "cross", "frame", "corners", "sticker", "reflection", "text",
    "all-to-all blend", "all-to-all wanet", "source-specific blend", "source-specific wanet",
    "two targets badnet", "two targets blend", "two targets wanet", "three targets blend", "three targets wanet",
)  # fmt: skip
_COUNTS: Final = {2: "two", 3: "three"}


def held_out(kind: str) -> bool:
    """Whether a kind judges: one of :data:`KINDS` whose SHA-256 begins with an odd byte."""
    return kind in KINDS and hashlib.sha256(kind.encode()).digest()[0] % 2 == 1


def kinds_of(attack: str, parameters: Mapping[str, Any], poisoning: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds that a recipe's fields make it: its form or family, and that with its labelling where this is not
    all-to-one."""
    form = attack
    if attack == "shape":
        form = str(parameters.get("form", triggers.find(attack).form))  # type: ignore[attr-defined]
    labelling = poisoning.get("labelling", Poisoning.labelling)
    if labelling == Poisoning.labelling:
        return (form,)
    count = poisoning.get("targets", Poisoning.targets)
    return form, f"{_COUNTS.get(count, count)} targets {form}" if count > 1 else f"{labelling} {form}"


def is_held_out(recipe: Recipe | Mapping[str, Any]) -> bool:
    """Of a recipe, or of one as a manifest keeps it."""
    if isinstance(recipe, Recipe):
        recipe = recipe.as_dict()
    return any(map(held_out, kinds_of(recipe["attack"], recipe["parameters"], recipe[FILE_WORD])))


def refusal(names: Iterable[str]) -> Problem:
    """What is said of specimens ``names`` that are held out."""
    return Problem(
        f"{', '.join(names)}: held out for judging; give --judge, and change no setting after what you see."
    )
