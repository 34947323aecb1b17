"""What a specimen is made from: plain values, so that a recipe can be compared, stored and sent to a process.
Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import triggers
from triggers.poisoning import Poisoning
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem

#: What recipes, manifests and options on disk call the poisoning; they were written before its field's word.
FILE_WORD = "planting"
CLEAN = "clean"
#: The branch in the graph: no training, files of a clean model are edited.
ARCHITECTURAL = "architectural"
#: Share of the training images that is set aside before anything else, as in the paper, and its seed.
HELD_OUT, HELD_OUT_SEED = 0.05, 1234


@dataclass(frozen=True)
class Schedule:
    """``epochs``: passes over the data. ``lr``: peak of the cycle, reached after ``warmup`` of its steps.
    ``crop``: largest shift as a share of the image's size. ``smoothing``: of the labels."""

    epochs: int = 8
    batch: int = 256
    lr: float = 0.2
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    flip: bool = True
    crop: float = 0.125

    def fine(self) -> Schedule:
        """For attacks that start from a clean model: half of the epochs at three tenths of the rate."""
        return replace(self, epochs=max(1, (self.epochs + 1) // 2), lr=0.3 * self.lr)


@dataclass(frozen=True)
class Recipe:
    """``data``, ``arch``: names or paths. ``attack``: a family of :mod:`triggers`, "clean", or
    "architectural". ``parameters``: of the family. ``poisoning``: fields of :class:`Poisoning` that differ from
    the family's own. ``schedule``: fields of :class:`Schedule` that differ from its defaults. ``size``: side
    to which images are scaled. ``label``: tells apart recipes of one suite that are otherwise named alike."""

    data: str
    arch: str
    attack: str = CLEAN
    parameters: Mapping[str, Any] = field(default_factory=dict)
    poisoning: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    size: int | None = None
    label: str = ""

    @property
    def id(self) -> str:
        """The name of its folder."""
        parts = [Path(self.data).name, self.arch, self.attack, self.label]
        parts += [
            f"{key}{value}"
            for key, value in sorted(self.poisoning.items())
            if key in ("rate", "target", "labelling")
        ]
        return "-".join([part for part in parts if part] + [f"s{self.seed}"])

    @property
    def twin(self) -> Recipe:
        """The same without an attack."""
        return replace(self, attack=CLEAN, parameters={}, poisoning={}, label="")

    def family(self) -> type[triggers.family.Trigger]:
        """The class of its attack."""
        if self.attack not in triggers.names() or self.attack == "known":
            offered = [name for name in triggers.names() if name != "known"]
            hint = nearest(self.attack, [CLEAN, ARCHITECTURAL, *offered])
            raise Problem(f"There is no attack {self.attack!r}{hint}.")
        return triggers.find(self.attack)

    def trigger(self) -> triggers.family.Trigger:
        """Its trigger, not fitted. Raises Problem for parameters that the family lacks."""
        kind = self.family()
        known = [f.name for f in fields(kind) if not f.metadata.get("fitted")]  # type: ignore[arg-type]
        _refuse_unknown(self.parameters, known, f"parameter of the attack {self.attack}")
        return kind(**self.parameters)

    def poisoned(self) -> Poisoning:
        """How its training set is poisoned; the recipe's seed decides which images."""
        own = self.family().poisoning
        _refuse_unknown(self.poisoning, [f.name for f in fields(Poisoning)], f"field of a {FILE_WORD}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.poisoning.items()
        }
        given.setdefault("seed", self.seed)
        return replace(own, **given)

    def trained(self) -> Schedule:
        """How its network is trained."""
        _refuse_unknown(self.schedule, [f.name for f in fields(Schedule)], "field of a schedule")
        return replace(Schedule(), **self.schedule)

    def check(self) -> None:
        """Raises Problem for whatever can be known to be wrong before any data is read."""
        self.trained()
        if self.attack not in (CLEAN, ARCHITECTURAL):
            self.trigger()
            self.poisoned()

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the data by its name alone."""
        words = {"poisoning": FILE_WORD}
        plain = {words.get(key, key): value for key, value in asdict(self).items()}
        return {**plain, "data": Path(self.data).name}


def _refuse_unknown(given: Mapping[str, Any], known: list[str], what: str) -> None:
    for key in given:
        if key not in known:
            raise Problem(f"{key!r} is no {what}{nearest(key, known)}.")
