from dataclasses import dataclass

from wiper_cli.purifiers.options import Unaugmented, option


@dataclass(frozen=True)
class NPD(Unaugmented):
    """Neural polarizer: a linear map of channels, learned against adversarial images, in front of a layer."""

    name = "npd"
    title = "NPD: neural polarizer, merged into a convolution"
    presets = {"paper": {"epochs": 50, "batch": 128}, "field": {"epochs": 50, "batch": 128}}
    quick = {"epochs": 1}

    epochs: int = option(15, "Passes over the clean images.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.1, "Initial learning rate of SGD.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-5, "Weight decay of SGD.", 0)
    place: int = option(2, "The map stands before this convolution, counted from the last.", 1)
    radius: float = option(3.0, "Largest l2 norm of the adversary, on images in 0..1.", 0)
    inner_steps: int = option(2, "Sign steps of the inner adversary.", 1)
    adverse_weight: float = option(0.4, "Weight of each of the three losses on adversarial images.", 0)
