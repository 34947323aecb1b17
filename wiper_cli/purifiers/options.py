"""What the settings of purifiers share. Imports no torch: the command's options derive from settings.

The settings of a method stand in ``methods/NAME/__init__.py``, the method itself, ``purify(settings, task)``, beside
them in ``method.py``, loaded when it runs. ``presets`` name sets of fields that differ from the defaults. ``paper``:
the method's own paper or, for those that WIPER compares with, its appendix A.4; what it leaves open is ours, and
gradients are clipped where its rate of 0.1 diverges with frozen batch norm. ``field``: BackdoorBench's defaults, or
those of the method's own code. Most of them were found with batch norm in training mode, on networks of full width;
on small ones with batch norm frozen some wreck it. Defaults are milder and shorter, since a deployed network is
purified on whatever machine is at hand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wiper_cli.salience import METRICS
from wiper_cli.verdict import Problem

if TYPE_CHECKING:
    from wiper_cli.purifiers.contract import Purified, Task

Fields = Mapping[str, Any]
Presets = Mapping[str, Fields]

BODY, HEAD = frozenset({"labels", "body"}), frozenset({"labels", "head"})


def option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: Collection[str] | None = None,
) -> Any:
    """A field with its help text and, for numbers, the closed range of its values; ``choices``: of a string that is
    a name of a table."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


def metric_option(default: str, text: str) -> Any:
    """A field that names one of :data:`wiper_cli.salience.METRICS`."""
    return option(default, text, choices=METRICS)


class Settings:
    """What all settings share: a value outside its range is refused."""

    name: ClassVar[str]
    #: Whether the method can train batch norm live; by default it stays frozen.
    trains_live: ClassVar[bool] = False
    #: Whether it reads the task's suspects or recovered transforms; any other gives the same without them.
    uses_scan: ClassVar[bool] = False
    #: Fields for a trial that takes seconds on a small network and in which every part of the method runs.
    quick: ClassVar[Fields] = {}

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value, low, high, choices = (
                getattr(self, item.name),
                *map(item.metadata.get, ("low", "high", "choices")),
            )
            limits = ""
            if (low is not None and not value >= low) or (high is not None and not value <= high):
                limits = f"at least {low}" if high is None else f"in {low}..{high}"
            elif choices is not None and value not in choices:
                limits = f"one of {', '.join(choices)}"
            if limits:
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
        module = import_module(f"{type(self).__module__}.method")
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
class ChannelPruning(Augmented):
    """Settings of a method that removes output channels of convolutions."""

    budget: float = option(0.04, "Share of the accuracy on the select part that pruning may cost.", 0, 1)
    ablation: Literal["zero", "mean"] = option(
        "mean", "What stands for a removed channel: 0, or its mean over the clean images."
    )
