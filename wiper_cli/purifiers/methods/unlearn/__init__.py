from dataclasses import dataclass

from wiper_cli.purifiers.options import Augmented, option


@dataclass(frozen=True)
class Unlearn(Augmented):
    """Universal adversarial unlearning with feature distillation: the default method."""

    name = "unlearn"
    uses_scan = True
    title = "Unlearning of universal perturbations, with feature distillation"
    quick = {"epochs": 1, "min_steps": 2, "warmup": 1}

    epochs: int = option(8, "Passes over the clean images, at least.", 1)
    min_steps: int = option(240, "Steps at least: a small clean set is passed more often.", 1)
    batch: int = option(128, "Images per step; with few, each perturbation learns from too few.", 2)
    lr: float = option(1e-3, "Peak learning rate of Adam; a tenth warms up, then a cosine to 0.", 0)
    members: int = option(8, "Perturbations per family; half of them aim at a suspected class.", 2)
    warmup: int = option(40, "Steps of the perturbations alone, before training.", 0)
    clean_weight: float = option(1.0, "Weight of the terms that keep the clean behaviour.", 0)
    push: float = option(0.85, "Share of the unlearning term that pushes away from the class reached.", 0, 1)
    recovered_share: float = option(0.7, "Share of each batch that shows recovered triggers, if any.", 0, 1)
    windows: int = option(0, "Small windows inverted for each suspect that join the recovered; 0: none.", 0)
    alpha: float = option(0.0, "Weight of WIPER's penalty on units of low salience; 0: off.", 0)
    beta: float = option(0.1, "Share of the head's units under that penalty.", 0, 1)
