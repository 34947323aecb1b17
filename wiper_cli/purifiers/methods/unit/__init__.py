from dataclasses import dataclass

from wiper_cli.purifiers.options import Augmented, option


@dataclass(frozen=True)
class UNIT(Augmented):
    """UNIT: upper bounds on activations, learned as tight as accuracy allows, then distilled into the weights."""

    name = "unit"
    title = "UNIT: tight bounds on activations, distilled into the weights"
    presets = {"paper": {"steps": 300}}
    quick = {"steps": 3, "epochs": 1}

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
