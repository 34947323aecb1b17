from dataclasses import dataclass

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class TSBD(Sgd):
    """Two-stage defence: weights that unlearning changes most are set to 0, then all is fine-tuned flatly."""

    name = "tsbd"
    title = "TSBD: reinitialise what clean unlearning changes most, then fine-tune"
    presets = {"paper": {"epochs": 20, "batch": 128, "lr": 0.01, "min_steps": 1}}
    quick = {"epochs": 1, "min_steps": 2, "unlearn_epochs": 2, "share": 0.2}

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
