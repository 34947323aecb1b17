"""Typed settings of the methods that one has to beat today. Imports no torch.

``paper``: the paper of the method itself, or its code; ``field``: BackdoorBench's defaults, or the method's own code
where BackdoorBench lacks it. Most of those numbers were found with batch norm in training mode, on a ResNet-18 of full
width; on small networks with batch norm frozen some of them wreck it (see each module). Defaults are milder, and
shorter, since a deployed network is purified on whatever machine is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wiper_cli.purifiers.settings import BODY, HEAD, Augmented, Sgd, Unaugmented, option

Presets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FTSAM(Sgd):
    """Fine-tuning with adaptive sharpness-aware minimisation."""

    name: ClassVar[str] = "ft-sam"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "FT-SAM: fine-tuning with adaptive sharpness-aware minimisation"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 100, "batch": 256, "lr": 0.01, "rho": 2.0},
        "field": {"epochs": 100, "batch": 256, "lr": 0.01, "rho": 2.0},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(12, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(0.004, "Initial learning rate of SGD.", 0)
    rho: float = option(0.2, "Length of the ascent step, relative to the weights.", 0)
    smoothing: float = option(0.1, "Label smoothing of cross-entropy.", 0, 1)


@dataclass(frozen=True)
class FST(Sgd):
    """Feature shift tuning: a new head, pushed away from the old one."""

    name: ClassVar[str] = "fst"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "FST: feature shift tuning under a new head"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 10, "batch": 128, "alpha": 0.1},
        "field": {"epochs": 10, "batch": 128, "alpha": 0.2},
    }
    needs: ClassVar[frozenset[str]] = BODY | {"head"}

    epochs: int = option(20, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    alpha: float = option(0.02, "Weight of the inner product of new and old head; 0 for many classes.", 0)
    weight_decay: float = option(0.0, "Weight decay of SGD.", 0)


@dataclass(frozen=True)
class ChannelPruning(Augmented):
    """Settings of a method that removes output channels of convolutions."""

    budget: float = option(0.04, "Share of the accuracy on the select part that pruning may cost.", 0, 1)
    ablation: Literal["zero", "mean"] = option(
        "mean", "What stands for a removed channel: 0, or its mean over the clean images."
    )


@dataclass(frozen=True)
class ANP(ChannelPruning):
    """Adversarial neuron pruning: channels that noise on channels turns against the loss."""

    name: ClassVar[str] = "anp"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "ANP: adversarial neuron pruning"
    presets: ClassVar[Presets] = {
        "paper": {"steps": 2000, "lr": 0.2, "noise": 0.4},
        "field": {"steps": 2000, "lr": 0.2, "noise": 0.4, "budget": 0.1},
    }
    needs: ClassVar[frozenset[str]] = BODY

    steps: int = option(110, "Steps of the search for masks, rounded to whole passes.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.1, "Learning rate of SGD on the masks.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    noise: float = option(0.03, "Largest relative noise on a channel.", 0)
    inner_steps: int = option(1, "Sign steps of the inner adversary.", 1)
    clean_weight: float = option(0.2, "Weight of the loss without noise; the rest is the loss with it.", 0, 1)


@dataclass(frozen=True)
class RNP(ChannelPruning):
    """Reconstructive neuron pruning: unlearn the clean task, recover it by masks, prune what masks spare."""

    name: ClassVar[str] = "rnp"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "RNP: reconstructive neuron pruning"
    presets: ClassVar[Presets] = {
        "paper": {"unlearn_lr": 0.01, "unlearn_until": 0.2},
        "field": {"unlearn_lr": 0.01, "unlearn_until": 0.2, "budget": 0.1},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(20, "Passes over the clean images while masks recover.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.04, "Learning rate of SGD on the masks.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-4, "Weight decay of SGD while unlearning.", 0)
    unlearn_epochs: int = option(20, "Passes over the clean images while unlearning, at most.", 1)
    unlearn_lr: float = option(1e-4, "Learning rate of SGD while unlearning.", 0)
    unlearn_until: float = option(0.5, "Accuracy on the fit part at which unlearning stops.", 0, 1)
    clip: float = option(20.0, "Largest l2 norm of a step's gradient while unlearning; 0: no bound.", 0)


@dataclass(frozen=True)
class SAU(Unaugmented):
    """Shared adversarial unlearning."""

    name: ClassVar[str] = "sau"
    title: ClassVar[str] = "SAU: shared adversarial unlearning"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 100, "batch": 256, "lr": 1e-4, "schedule": "constant", "inner_steps": 5},
        "field": {"epochs": 100, "batch": 256, "lr": 1e-4, "schedule": "constant", "inner_steps": 5},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(4, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(1e-3, "Initial learning rate of Adam.", 0)
    schedule: Literal["cosine", "constant", "step"] = option(
        "cosine", "Learning rate: cosine falls to 0, step is divided by 10 after every 2 epochs."
    )
    reach: float = option(0.2, "Largest change of a pixel by the adversary, on images in 0..1.", 0, 1)
    inner_steps: int = option(3, "Sign steps of the inner adversary.", 1)
    untargeted: float = option(0.01, "Weight of errors of either network in the adversary's aim.", 0)
    clean_weight: float = option(1.0, "Weight of cross-entropy on clean images.", 0)
    shared_weight: float = option(1.0, "Weight of the unlearning of shared adversarial examples.", 0)


@dataclass(frozen=True)
class NPD(Unaugmented):
    """Neural polarizer: a linear map of channels, learned against adversarial images, in front of a layer."""

    name: ClassVar[str] = "npd"
    title: ClassVar[str] = "NPD: neural polarizer, merged into a convolution"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 50, "batch": 128},
        "field": {"epochs": 50, "batch": 128},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(15, "Passes over the clean images.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.1, "Initial learning rate of SGD.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-5, "Weight decay of SGD.", 0)
    place: int = option(2, "The map stands before this convolution, counted from the last.", 1)
    radius: float = option(3.0, "Largest l2 norm of the adversary, on images in 0..1.", 0)
    inner_steps: int = option(2, "Sign steps of the inner adversary.", 1)
    adverse_weight: float = option(0.4, "Weight of each of the three losses on adversarial images.", 0)


@dataclass(frozen=True)
class BTIDBF(Augmented):
    """BTI-DBF(U): decouple benign features, invert the rest into images, unlearn these."""

    name: ClassVar[str] = "bti-dbf"
    title: ClassVar[str] = "BTI-DBF(U): unlearning of what a generator makes of features that are not benign"
    presets: ClassVar[Presets] = {
        "paper": {"rounds": 5, "epochs": 30, "generator_epochs": 30, "batch": 128, "image_bound": 0.012}
    }
    needs: ClassVar[frozenset[str]] = BODY | {"head"}

    rounds: int = option(2, "Times that mask and generator are found anew and unlearned.", 1)
    epochs: int = option(4, "Passes over the clean images that unlearn, a round.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(1e-4, "Learning rate of Adam while unlearning.", 0)
    mask_epochs: int = option(20, "Passes over the cached features that find the mask.", 1)
    mask_lr: float = option(0.01, "Learning rate of Adam on the mask.", 0)
    generator_epochs: int = option(12, "Passes over the clean images that train the generator, a round.", 1)
    generator_lr: float = option(1e-3, "Learning rate of Adam on the generator.", 0)
    generator_width: int = option(8, "Channels of the generator's first level.", 1)
    image_bound: float = option(
        0.02, "Mean square change of pixels in 0..1 up to which the generator is left free.", 0, 1
    )
    stamped: float = option(0.1, "Share of a batch that the generator changes while it is unlearned.", 0, 1)


@dataclass(frozen=True)
class BAN(Sgd):
    """Fine-tuning against adversarial noise on channels."""

    name: ClassVar[str] = "ban"
    title: ClassVar[str] = "BAN: fine-tuning against adversarial noise on neurons"
    trains_live: ClassVar[bool] = True
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 25, "batch": 128, "lr": 0.005, "schedule": "constant", "noise": 0.3}
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(20, "Passes over the clean images.", 1)
    batch: int = option(32, "Images per step.", 1)
    lr: float = option(0.005, "Initial learning rate of SGD.", 0)
    schedule: Literal["cosine", "constant", "step"] = option(
        "cosine", "Learning rate: cosine falls to 0, step is divided by 10 after every 2 epochs."
    )
    noise: float = option(0.3, "Largest relative noise on a channel.", 0)
    inner_steps: int = option(1, "Sign steps of the inner adversary.", 1)
    adverse_weight: float = option(0.5, "Weight of cross-entropy under noise.", 0)
    mask_weight: float = option(0.75, "Weight of the mean of the feature mask that the notes report on.", 0)
    mask_epochs: int = option(20, "Passes over the cached features that find the mask.", 1)


@dataclass(frozen=True)
class TSBD(Sgd):
    """Two-stage defence: weights that unlearning changes most are set to 0, then all is fine-tuned flatly."""

    name: ClassVar[str] = "tsbd"
    title: ClassVar[str] = "TSBD: reinitialise what clean unlearning changes most, then fine-tune"
    presets: ClassVar[Presets] = {"paper": {"epochs": 20, "batch": 128, "lr": 0.01, "min_steps": 1}}
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(8, "Passes over the clean images, at least.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(0.005, "Initial learning rate of SGD.", 0)
    min_steps: int = option(100, "Steps at least: a small clean set is passed more often.", 1)
    unlearn_epochs: int = option(20, "Passes over the clean images while unlearning, at most.", 1)
    unlearn_lr: float = option(1e-4, "Learning rate of SGD while unlearning; doubled after every pass.", 0)
    unlearn_until: float = option(0.1, "Accuracy on the select part at which unlearning stops.", 0, 1)
    clip: float = option(20.0, "Largest norm of a gradient while unlearning.", 0)
    share: float = option(
        0.0, "Share of the channels in which weights are reinitialised; 0: chosen by --tolerance.", 0, 1
    )
    tolerance: float = option(
        0.1, "Share of the accuracy on the select part that reinitialising may cost before fine-tuning.", 0, 1
    )
    weight_share: float = option(0.7, "Share of the weights of such a channel that are set to 0.", 0, 1)
    rho: float = option(0.05, "Length of the step to where the second gradient is taken.", 0)
    alpha: float = option(0.7, "Weight of the second gradient; the first has the rest.", 0, 1)


@dataclass(frozen=True)
class UNIT(Augmented):
    """UNIT: upper bounds on activations, learned as tight as accuracy allows, then distilled into the weights."""

    name: ClassVar[str] = "unit"
    title: ClassVar[str] = "UNIT: tight bounds on activations, distilled into the weights"
    presets: ClassVar[Presets] = {"paper": {"steps": 300}}
    needs: ClassVar[frozenset[str]] = BODY

    steps: int = option(100, "Steps that tighten the bounds.", 1)
    batch: int = option(128, "Images per step.", 1)
    deviations: float = option(4.0, "Bounds start so many standard deviations above the mean.", 0)
    bound_lr: float = option(1e-3, "Learning rate of Adam on the bounds, in units of their first mean.", 0)
    bound_weight: float = option(1e-3, "First weight of the bounds; it follows the accuracy.", 0)
    budget: float = option(0.03, "Share of the accuracy on the select part that bounds may cost.", 0, 1)
    epochs: int = option(6, "Passes over the clean images that distil.", 1)
    lr: float = option(5e-4, "Learning rate of Adam while distilling; it falls as a cosine.", 0)
    reach: float = option(0.2, "Largest change of a pixel by the adversary, on images in 0..1.", 0, 1)
    inner_steps: int = option(3, "Sign steps of the inner adversary.", 1)


@dataclass(frozen=True)
class LMR(Sgd):
    """LMR: the target class betrays itself under unlearning; units that carry it are cut from the head."""

    name: ClassVar[str] = "lmr"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = (
        "LMR: find the target by unlearning, push its logit down, cut the units that carry it"
    )
    presets: ClassVar[Presets] = {}

    train: Literal["all", "head"] = option("all", "Which weights to train.")
    aim: Literal["unlearning", "suspect"] = option(
        "unlearning",
        "What names the target class: unlearning, or the scan's first suspect where there is one.",
    )
    batch: int = option(64, "Images per step.", 1)
    unlearn_epochs: int = option(20, "Passes over the clean images while unlearning, at most.", 1)
    unlearn_lr: float = option(1e-3, "Learning rate of SGD while unlearning; doubled after every pass.", 0)
    unlearn_until: float = option(0.2, "Accuracy on the fit part at which unlearning stops.", 0, 1)
    clip: float = option(20.0, "Largest norm of a gradient while unlearning.", 0)
    suppression: float = option(1.0, "Weight of the loss that pushes the target's logit down.", 0)
    suppression_margin: float = option(
        10.0, "By how much that logit shall lie under the largest other one.", 0
    )
    retention: float = option(0.25, "Weight of the loss that keeps a margin for the true class.", 0)
    retention_margin: float = option(0.5, "By how much its logit shall lie over the largest other one.", 0)
    share: float = option(
        0.1, "Share of the head's units that are cut; 0: the most that --budget allows.", 0, 1
    )
    budget: float = option(0.04, "Share of the accuracy on the select part that cutting may cost.", 0, 1)

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.train == "head" else BODY | {"head"}
