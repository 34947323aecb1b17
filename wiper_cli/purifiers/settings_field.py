"""Typed settings of the methods that one has to beat today, first half. Imports no torch.

``paper``: the paper of the method itself; ``field``: BackdoorBench's defaults, or the method's own code where
BackdoorBench lacks it. Most of those numbers were found with batch norm in training mode, on a ResNet-18 of full
width; on the small bundled network with batch norm frozen some of them wreck it (see each module), so defaults are
milder, and shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from wiper_cli.purifiers.settings import BODY, Settings, Sgd, option

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
class ANP(Settings):
    """Adversarial neuron pruning: channels that noise on channels turns against the loss."""

    name: ClassVar[str] = "anp"
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
    budget: float = option(0.04, "Share of the accuracy on the select part that pruning may cost.", 0, 1)
    ablation: Literal["zero", "mean"] = option(
        "mean", "What stands for a removed channel: 0, or its mean over the clean images."
    )
    flip: bool = option(True, "Mirror half of the images left to right; off where direction matters.")
    crop: float = option(0.125, "Shift images at random by up to this share of their size.", 0, 0.5)


@dataclass(frozen=True)
class RNP(Settings):
    """Reconstructive neuron pruning: unlearn the clean task, recover it by masks, prune what masks spare."""

    name: ClassVar[str] = "rnp"
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
    budget: float = option(0.04, "Share of the accuracy on the select part that pruning may cost.", 0, 1)
    ablation: Literal["zero", "mean"] = option(
        "mean", "What stands for a removed channel: 0, or its mean over the clean images."
    )
    flip: bool = option(True, "Mirror half of the images left to right; off where direction matters.")
    crop: float = option(0.125, "Shift images at random by up to this share of their size.", 0, 0.5)


@dataclass(frozen=True)
class SAU(Settings):
    """Shared adversarial unlearning."""

    name: ClassVar[str] = "sau"
    title: ClassVar[str] = "SAU: shared adversarial unlearning"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 100, "batch": 256, "lr": 1e-4, "inner_steps": 5},
        "field": {"epochs": 100, "batch": 256, "lr": 1e-4, "inner_steps": 5},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(4, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(1e-4, "Initial learning rate of Adam; it falls as a cosine.", 0)
    reach: float = option(0.2, "Largest change of a pixel by the adversary, on images in 0..1.", 0, 1)
    inner_steps: int = option(3, "Sign steps of the inner adversary.", 1)
    untargeted: float = option(0.01, "Weight of errors of either network in the adversary's aim.", 0)
    clean_weight: float = option(1.0, "Weight of cross-entropy on clean images.", 0)
    shared_weight: float = option(1.0, "Weight of the unlearning of shared adversarial examples.", 0)
    flip: bool = option(False, "Mirror half of the images left to right.")
    crop: float = option(0.0, "Shift images at random by up to this share of their size.", 0, 0.5)


@dataclass(frozen=True)
class NPD(Settings):
    """Neural polarizer: a linear map of channels, learned against adversarial images, in front of a layer."""

    name: ClassVar[str] = "npd"
    title: ClassVar[str] = "NPD: neural polarizer, merged into a convolution"
    presets: ClassVar[Presets] = {
        "paper": {"epochs": 50, "batch": 128},
        "field": {"epochs": 50, "batch": 128},
    }
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(6, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(0.01, "Constant learning rate of SGD.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-4, "Weight decay of SGD.", 0)
    place: int = option(2, "The map stands before this convolution, counted from the last.", 1)
    radius: float = option(3.0, "Largest l2 norm of the adversary, on images in 0..1.", 0)
    inner_steps: int = option(2, "Sign steps of the inner adversary.", 1)
    adverse_weight: float = option(0.4, "Weight of each of the three losses on adversarial images.", 0)
    flip: bool = option(False, "Mirror half of the images left to right.")
    crop: float = option(0.0, "Shift images at random by up to this share of their size.", 0, 0.5)
