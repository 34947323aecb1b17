"""Typed settings of every purifier, and what each needs. Imports no torch: options derive from here.

The method of a class stands in the module of the same name, ``purify(settings, task)``, loaded when it runs.
``presets`` name sets of fields that differ from the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wiper_cli.verdict import Problem

if TYPE_CHECKING:
    from wiper_cli.purifiers.contract import Purified, Task

BODY, HEAD = frozenset({"labels", "body"}), frozenset({"labels", "head"})

#: Names of :data:`wiper_cli.salience.METRICS`.
MetricName = Literal[
    "bs", "mbs", "am", "weighted-am", "gradient", "integrated-gradients", "shapley", "random"
]


def option(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and, for numbers, the closed range of its values."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


class Settings:
    """What all settings share: a value outside its range is refused."""

    name: ClassVar[str]
    #: Whether the method can train batch norm live; by default it stays frozen.
    trains_live: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                limits = f"at least {low}" if high is None else f"in {low}..{high}"
                raise Problem(
                    f"--{item.name.replace('_', '-')} of {self.name} must be {limits}, not {value}."
                )

    def require_live(self, live: bool) -> None:
        """Raises :class:`Problem` for ``live`` batch norm where the method works with a frozen one."""
        if live and not self.trains_live:
            raise Problem(f"The method {self.name} leaves batch norm frozen: leave out --batch-norm live.")

    def run(self, task: Task) -> Purified:
        """Loads the module named like the method, and runs it. Raises :class:`Problem` where it cannot."""
        self.require_live(task.live)
        module = import_module(f"wiper_cli.purifiers.{self.name.replace('-', '_')}")
        purified: Purified = module.purify(self, task)
        return purified


@dataclass(frozen=True)
class Augmented(Settings):
    """Settings of a method that augments the images it trains on."""

    flip: bool = option(True, "Mirror half of the images left to right; off where direction matters.")
    crop: float = option(0.125, "Shift images at random by up to this share of their size.", 0, 0.5)


@dataclass(frozen=True)
class Unaugmented(Augmented):
    """The same for a method that by its source does not, unless asked."""

    flip: bool = option(False, "Mirror half of the images left to right.")
    crop: float = option(0.0, "Shift images at random by up to this share of their size.", 0, 0.5)


@dataclass(frozen=True)
class Sgd(Augmented):
    """Settings of a method that trains by SGD with momentum; ``schedule``: of the learning rate."""

    epochs: int = option(10, "Passes over the clean images.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.01, "Initial learning rate of SGD.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-4, "Weight decay of SGD.", 0)
    schedule: Literal["cosine", "constant", "step"] = option(
        "cosine", "Learning rate: cosine falls to 0, step is divided by 10 after every 2 epochs."
    )
    clip: float = option(0.0, "Largest l2 norm of a step's gradient; 0: no bound.", 0)


@dataclass(frozen=True)
class FineTuning(Sgd):
    """Plain fine-tuning on clean images: the baseline that every other method must beat.

    ``paper``: appendix A.4 of WIPER, which names no number of epochs; its rate of 0.1 needs live batch norm, and
    diverges with a frozen one, so gradients are clipped. ``field``: BackdoorBench's defaults.
    """

    name: ClassVar[str] = "fine-tuning"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "Fine-tuning on clean images"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "constant", "clip": 1.0},
        "field": {"epochs": 100, "batch": 256},
    }

    train: Literal["all", "head"] = option("all", "Which weights to train.")

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.train == "head" else BODY


@dataclass(frozen=True)
class Wiper(Unaugmented):
    """WIPER, Algorithm 1: penalise the units of least benign salience while fine-tuning.

    The defaults are the paper's numbers; ``strong`` raises the penalty and adds momentum. At a step of
    lr alpha / (1 - momentum) a penalised weight swings round 0 by as much: alpha 1 ruins small heads.
    """

    name: ClassVar[str] = "wiper"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "WIPER: benign salience and adaptive regularisation"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "strong": {"alpha": 0.1, "momentum": 0.9},
    }

    train: Literal["all", "head"] = option(
        "all", "Which weights cross-entropy trains; the penalty falls on chosen units only."
    )
    alpha: float = option(0.01, "Weight of the penalty.", 0)
    beta: float = option(0.5, "Share of units penalised at first; falls to 0 over the epochs (Eq. 4).", 0, 1)
    eta: float = option(0.9, "Momentum of salience over its updates (Eq. 3); 0 takes the latest only.", 0, 1)
    regulariser: Literal["ar", "l1", "l2"] = option(
        "ar", "Penalty on a weight (Eq. 6, or Eq. 5 with k = 1, 2)."
    )
    metric: MetricName = option("bs", "What ranks units; any but bs: of the head, once an epoch.")  # noqa: RUF009 - an alias of Literal
    granularity: Literal["unit", "weight"] = option(
        "unit", "Choose whole units (columns of the head, channels of a convolution) or single weights."
    )
    update: Literal["batch", "epoch"] = option("batch", "How often salience is renewed.")
    reduction: Literal["mean", "sum"] = option(
        "mean", "Cross-entropy over a batch: its mean, or its sum as printed."
    )
    last_layers: int = option(1, "How many of the last weight layers are penalised; 1 is the head.", 1)
    epochs: int = option(10, "Passes over the clean images.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.01, "Constant learning rate of SGD.", 0)
    momentum: float = option(0.0, "Momentum of SGD.", 0, 1)

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.train == "head" else BODY


@dataclass(frozen=True)
class Unlearn(Augmented):
    """Universal adversarial unlearning with feature distillation: the default method."""

    name: ClassVar[str] = "unlearn"
    title: ClassVar[str] = "Unlearning of universal perturbations, with feature distillation"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(8, "Passes over the clean images, at least.", 1)
    min_steps: int = option(240, "Steps at least: a small clean set is passed more often.", 1)
    batch: int = option(128, "Images per step; with few, each perturbation learns from too few.", 2)
    lr: float = option(1e-3, "Peak learning rate of Adam; a tenth warms up, then a cosine to 0.", 0)
    members: int = option(8, "Perturbations per family; half of them aim at a suspected class.", 2)
    warmup: int = option(40, "Steps of the perturbations alone, before training.", 0)
    clean_weight: float = option(1.0, "Weight of the terms that keep the clean behaviour.", 0)
    push: float = option(0.85, "Share of the unlearning term that pushes away from the class reached.", 0, 1)
    recovered_share: float = option(0.7, "Share of each batch that shows recovered triggers, if any.", 0, 1)
    windows: int = option(0, "Small windows inverted for each suspect that join the recovered; 0: none.", 0)
    alpha: float = option(0.0, "Weight of WIPER's penalty on units of low salience; 0: off.", 0)
    beta: float = option(0.1, "Share of the head's units under that penalty.", 0, 1)
