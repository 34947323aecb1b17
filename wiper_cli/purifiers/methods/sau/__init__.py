from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import Unaugmented, option


@dataclass(frozen=True)
class SAU(Unaugmented):
    """Shared adversarial unlearning."""

    name = "sau"
    title = "SAU: shared adversarial unlearning"
    presets = {
        "paper": {"epochs": 100, "batch": 256, "lr": 1e-4, "schedule": "constant", "inner_steps": 5},
        "field": {"epochs": 100, "batch": 256, "lr": 1e-4, "schedule": "constant", "inner_steps": 5},
    }
    quick = {"epochs": 1, "inner_steps": 2}

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
