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

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_origin, get_type_hints

from wiper_cli.salience import METRICS
from wiper_cli.verdict import ExitCode, Problem

if TYPE_CHECKING:
    from formats import Model
    from wiper_cli.purifiers.contract import Purified, Purifier, Task

Fields = Mapping[str, Any]
Presets = Mapping[str, Fields]

#: What a method can ask for, in words.
NEEDS: Mapping[str, str] = {
    "labels": "labels",
    "body": "gradients through the network",
    "head": "a linear head",
    "triggered": "images that carry the trigger",
}
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
    title: ClassVar[str]
    presets: ClassVar[Presets] = {}
    #: Whether the method can train batch norm live; by default it stays frozen.
    trains_live: ClassVar[bool] = False
    #: Whether it reads the task's suspects or recovered transforms; any other gives the same without them.
    uses_scan: ClassVar[bool] = False
    #: Fields for a trial that takes seconds on a small network and in which every part of the method runs.
    quick: ClassVar[Fields] = {}
    #: Whether it claims that backdoors go: its test shows the attack success rate that is left, the bench has it.
    claims_removal: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        """Of :data:`NEEDS`; the whole network unless a field ``train`` says "head"."""
        return HEAD if getattr(self, "train", "all") == "head" else BODY

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

    def require(self: Any, model: Model, live: bool, triggered: bool) -> None:
        """Raises :class:`Problem` where this ``model``, or the call, lacks what the method needs. ``triggered``: there
        are images that carry the trigger."""
        if "triggered" in self.needs and not triggered:
            raise Problem(
                f"The method {self.name} needs images that carry the trigger: give them with --triggered."
            )
        if live and not self.trains_live:
            raise Problem(f"The method {self.name} leaves batch norm frozen: leave out --batch-norm live.")
        if "body" in self.needs and model.head_only:
            raise Problem(
                f"The method {self.name} trains the whole network, and this file was opened head-only: try "
                "--method wiper --train head.",
                ExitCode.NO_VERDICT,
            )

    def run(self, task: Task) -> Purified:
        """Loads the module named like the method, and runs it. Raises :class:`Problem` where it cannot."""
        self.require(task.classifier.model, task.live, bool(task.triggered))
        module = import_module(f"{type(self).__module__}.method")
        purified: Purified = module.purify(self, task)
        return purified


def check(
    name: str, kind: Any, others: Iterable[type[Purifier]] = (), flags: Collection[str] = ()
) -> type[Settings]:
    """``kind``, if it can stand under ``name`` in the table of methods beside ``others``, where ``flags`` are taken.
    Else raises an error that says why not: :class:`Problem`, ``TypeError`` or ``ValueError``."""
    if not (isinstance(kind, type) and issubclass(kind, Settings) and "__dataclass_fields__" in vars(kind)):
        raise TypeError("it is no dataclass that derives from Settings")
    if (kind.name, bool(kind.title)) != (name, True):
        raise ValueError(f"it is called {kind.name} there, or has no title")
    if kind.run is Settings.run and find_spec(f"{kind.__module__}.method") is None:
        raise ValueError(f"there is no {kind.__module__}.method to run")
    for given in ({}, kind.quick, *kind.presets.values()):
        settings: Any = kind(**given)
        if unknown := settings.needs - NEEDS.keys():
            raise ValueError(f"nothing gives it {', '.join(unknown)}")
    hints, known = get_type_hints(kind), [get_type_hints(other) for other in others]
    for item in fields(kind):  # type: ignore[arg-type]
        hint, flag = hints[item.name], f"--{item.name.replace('_', '-')}"
        if item.default is MISSING or not {"help", "low", "high", "choices"} <= item.metadata.keys():
            raise TypeError(f"{item.name} is not made by option()")
        if not (hint in (bool, int, float) or get_origin(hint) is Literal or item.metadata["choices"]):
            raise TypeError(f"{flag} would be of a type that no option has")
        if any(other.get(item.name, hint) != hint for other in known):
            raise TypeError(f"{flag} is of another type where other methods have it")
        if flag in flags:
            raise ValueError(f"{flag} is an option of the command")
    return kind


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
