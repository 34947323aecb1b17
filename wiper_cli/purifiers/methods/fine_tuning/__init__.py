from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class FineTuning(Sgd):
    """Plain fine-tuning on clean images: the baseline that every other method must beat.

    ``paper``: appendix A.4 of WIPER, which names no number of epochs; its rate of 0.1 needs live batch norm, and
    diverges with a frozen one, so gradients are clipped. ``field``: BackdoorBench's defaults.
    """

    name = "fine-tuning"
    trains_live = True
    title = "Fine-tuning on clean images"
    presets = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "constant", "clip": 1.0},
        "field": {"epochs": 100, "batch": 256},
    }
    quick = {"epochs": 1}

    train: Literal["all", "head"] = option("all", "Which weights to train.")
