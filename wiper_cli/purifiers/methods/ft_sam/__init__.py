from dataclasses import dataclass

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class FTSAM(Sgd):
    """Fine-tuning with adaptive sharpness-aware minimisation."""

    name = "ft-sam"
    trains_live = True
    title = "FT-SAM: fine-tuning with adaptive sharpness-aware minimisation"
    presets = {
        "paper": {"epochs": 100, "batch": 256, "lr": 0.01, "rho": 2.0},
        "field": {"epochs": 100, "batch": 256, "lr": 0.01, "rho": 2.0},
    }
    quick = {"epochs": 1, "rho": 0.1}

    epochs: int = option(12, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(0.004, "Initial learning rate of SGD.", 0)
    rho: float = option(0.2, "Length of the ascent step, relative to the weights.", 0)
    smoothing: float = option(0.1, "Label smoothing of cross-entropy.", 0, 1)
