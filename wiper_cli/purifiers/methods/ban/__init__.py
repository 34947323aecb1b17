from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class BAN(Sgd):
    """Fine-tuning against adversarial noise on channels."""

    name = "ban"
    title = "BAN: fine-tuning against adversarial noise on neurons"
    trains_live = True
    presets = {"paper": {"epochs": 25, "batch": 128, "lr": 0.005, "schedule": "constant", "noise": 0.3}}
    quick = {"epochs": 1, "mask_epochs": 2}

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
