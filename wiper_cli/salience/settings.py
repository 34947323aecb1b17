"""Typed settings of the metrics that have any. Imports no torch: options derive from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wiper_cli.verdict import Problem

Baseline = Literal["zero", "mean"]


class Settings:
    """What all settings share: a value outside its range is refused. ``quick``: fields for a trial of seconds."""

    quick: ClassVar[Mapping[str, Any]] = {}

    def require(self, name: str, low: float, high: float | None = None) -> None:
        """Raises :class:`Problem` unless the field lies in ``low``..``high``, ends included."""
        value: Any = getattr(self, name)
        if not value >= low or (high is not None and not value <= high):
            limits = f"at least {low}" if high is None else f"in {low}..{high}"
            raise Problem(f"{name} of {type(self).__name__} must be {limits}, not {value}.")


@dataclass(frozen=True)
class MomentumSalience(Settings):
    """``eta``: share of the old value (Eq. 3). ``batch``: images of one update, in the order given."""

    quick: ClassVar[Mapping[str, Any]] = {"batch": 16}

    eta: float = 0.9
    batch: int = 128

    def __post_init__(self) -> None:
        self.require("eta", 0, 1)
        self.require("batch", 1)


@dataclass(frozen=True)
class GradientMagnitude(Settings):
    """``of``: the gradient by the unit's outgoing "weights" W_.j, or by its "activation" h_j."""

    of: Literal["weights", "activation"] = "weights"


@dataclass(frozen=True)
class IntegratedGradients(Settings):
    """``baseline``: where the line starts, zero or the mean over the images. ``steps``: points on the line (of
    Gauss and Legendre), or pieces of it when it runs through the whole network."""

    baseline: Baseline = "zero"
    steps: int = 50

    def __post_init__(self) -> None:
        self.require("steps", 1)


@dataclass(frozen=True)
class Shapley(Settings):
    """Truncated Monte Carlo with a bandit for the lowest units; floor, patience, delta, span: the source's.

    ``baseline``: what a removed unit is set to. ``lowest``: share of units to be told from the rest; 0 or 1
    samples every unit to the end. ``permutations``: at most. ``batch``: permutations between two looks at
    the intervals. ``floor``, ``patience``: a permutation ends when accuracy was at most ``floor`` above chance
    (1/K) more than ``patience`` times in a row; -1 never ends one. ``delta``: an interval fails with this
    probability. ``span``: range of a unit's contribution; 2 is always true, smaller ones are bold.
    """

    quick: ClassVar[Mapping[str, Any]] = {"permutations": 20}

    baseline: Baseline = "mean"
    lowest: float = 0.5
    permutations: int = 1000
    batch: int = 16
    floor: float = 0.2
    patience: int = 5
    delta: float = 0.2
    span: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.require("lowest", 0, 1)
        self.require("delta", 1e-12, 1)
        self.require("floor", -1, 1)
        for name in ("permutations", "batch"):
            self.require(name, 1)
        for name in ("patience", "span"):
            self.require(name, 0)


@dataclass(frozen=True)
class Random(Settings):
    """``seed`` of the draw."""

    seed: int = 0
