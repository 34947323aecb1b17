"""Typed settings of the methods that WIPER is compared with. Imports no torch.

``paper``: appendix A.4 of the WIPER paper; what it leaves open is ours, and gradients are clipped where its rate of
0.1 diverges with frozen batch norm. ``field``: BackdoorBench's defaults or those of the method's own code: SGD 0.01,
momentum 0.9, weight decay 5e-4, batches of 256, 100 epochs, cosine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wiper_cli.purifiers.settings import BODY, HEAD, MetricName, Settings, Sgd, option

Presets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FinePruning(Sgd):
    """Fine-Pruning: units of the head that clean images leave at rest are removed, then all is fine-tuned."""

    name: ClassVar[str] = "fine-pruning"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "Fine-Pruning: prune dormant units, then fine-tune"
    presets: ClassVar[Presets] = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "constant", "clip": 1.0},
        "field": {"share": 0.99, "tolerance": 0.1, "epochs": 100, "batch": 256},
    }

    train: Literal["all", "head"] = option("all", "Which weights to train after pruning.")
    share: float = option(0.1, "Share of the units removed, lowest first.", 0, 1)
    tolerance: float = option(
        0.0,
        "Stop removing before the accuracy on the select part falls by more than this share of itself; 0: never.",
        0,
        1,
    )
    metric: MetricName = option("am", "What ranks units: any metric of salience.")  # noqa: RUF009 - an alias of Literal

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.train == "head" else BODY


@dataclass(frozen=True)
class Prune(Settings):
    """Removing units or channels of least salience, without training (WIPER, Tables 9 and 10)."""

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "Pruning of the least salient units, without training"
    presets: ClassVar[Presets] = {"paper": {}, "field": {"metric": "am"}}

    share: float = option(0.1, "Share of the units (and channels of each layer) removed, lowest first.", 0, 1)
    metric: MetricName = option("bs", "What ranks them; channels by bs and am only.")  # noqa: RUF009 - an alias of Literal
    ablation: Literal["zero", "mean"] = option(
        "zero", "What stands for a removed unit: 0, or its mean over the clean images."
    )
    last_layers: int = option(1, "The head, and of so many less one of the last convolutions channels.", 1)

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.last_layers == 1 else BODY | HEAD


@dataclass(frozen=True)
class KD(Sgd):
    """Knowledge distillation into a network of the same shape that starts anew."""

    name: ClassVar[str] = "kd"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "Knowledge distillation into a network initialised anew"
    presets: ClassVar[Presets] = {"paper": {}, "field": {"epochs": 100, "batch": 256}}
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(50, "Passes over the clean images.", 1)
    hard: float = option(0.5, "Weight of cross-entropy; the rest is divergence from the given network.", 0, 1)
    temperature: float = option(2.0, "Temperature of the divergence.", 0.1)


@dataclass(frozen=True)
class NAD(Sgd):
    """Neural attention distillation from a fine-tuned teacher; unclipped, frozen batch norm lets it diverge."""

    name: ClassVar[str] = "nad"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "Neural attention distillation"
    presets: ClassVar[Presets] = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "step", "epochs": 10},
        "field": {"batch": 64},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(20, "Passes over the clean images.", 1)
    attention: float = option(
        1000.0, "Weight of attention at the two deepest places; half of it before them.", 0
    )
    clip: float = option(1.0, "Largest l2 norm of a step's gradient; 0: no bound.", 0)
    teacher_epochs: int = option(10, "Passes of the fine-tuning that makes the teacher.", 1)


@dataclass(frozen=True)
class IBAU(Settings):
    """Implicit backdoor adversarial unlearning of one universal perturbation.

    ``paper``: A.4 gives C_delta = 10 and no more; rate and fixed-point steps are those of the authors' code.
    ``field``: BackdoorBench, where nothing bounds the perturbation. Defaults: of six settings tried on BadNet of
    the zoo's tiny suite, the strongest that costs at most 3 points on the select part; tried on Blend and WaNet too.
    """

    name: ClassVar[str] = "i-bau"
    title: ClassVar[str] = "I-BAU: minimax unlearning by implicit hypergradients"
    presets: ClassVar[Presets] = {
        "paper": {"lr": 1e-3, "radius": 10.0, "fixed_point": 5},
        "field": {"lr": 1e-4, "radius": 0.0, "fixed_point": 5, "stamped": 0.01},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(5, "Rounds; each finds a perturbation anew and then unlearns it.", 1)
    min_steps: int = option(100, "Steps at least: a small clean set is passed more often.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(2e-4, "Learning rate of Adam.", 0)
    radius: float = option(
        4.0, "Largest l2 norm of the perturbation, in the units of the network's input; 0: no bound.", 0
    )
    fixed_point: int = option(3, "Steps of the fixed-point iteration for the hypergradient.", 1)
    stamped: float = option(
        0.1, "Share of a batch that carries the perturbation while it is unlearned.", 0, 1
    )


@dataclass(frozen=True)
class AILancet(Sgd):
    """AI-Lancet: compares units with and without the trigger; needs images that carry it.

    A.4 gives no settings for it, and BackdoorBench does not have it: both presets are the defaults, ours.
    """

    name: ClassVar[str] = "ai-lancet"
    title: ClassVar[str] = "AI-Lancet: locate the neurons a known trigger moves, and repair them"
    presets: ClassVar[Presets] = {"paper": {}, "field": {}}
    needs: ClassVar[frozenset[str]] = BODY | {"triggered"}

    repair: Literal["fine-tune", "flip"] = option(
        "fine-tune", "Train the located units alone, or turn the sign of what they send on."
    )
    share: float = option(0.1, "Share of the units of each layer that count as located.", 0, 1)
    last_layers: int = option(3, "The head, and of so many less one of the last convolutions channels.", 1)


@dataclass(frozen=True)
class CLP(Settings):
    """Channel Lipschitz pruning; looks at no image."""

    name: ClassVar[str] = "clp"
    title: ClassVar[str] = "Channel Lipschitz pruning, without data"
    presets: ClassVar[Presets] = {"paper": {}, "field": {}}
    needs: ClassVar[frozenset[str]] = frozenset({"body"})

    deviations: float = option(
        3.0, "Prune channels whose norm lies so many standard deviations above the layer's mean.", 0
    )
