from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import Unaugmented, metric_option, option


@dataclass(frozen=True)
class Wiper(Unaugmented):
    """WIPER, Algorithm 1: penalise the units of least benign salience while fine-tuning.

    The defaults are the paper's numbers; ``strong`` raises the penalty and adds momentum. At a step of
    lr alpha / (1 - momentum) a penalised weight swings round 0 by as much: alpha 1 ruins small heads.
    """

    name = "wiper"
    trains_live = True
    title = "WIPER: benign salience and adaptive regularisation"
    presets = {"paper": {}, "strong": {"alpha": 0.1, "momentum": 0.9}}
    quick = {"epochs": 1, "last_layers": 2}

    train: Literal["all", "head"] = option(
        "all", "Which weights cross-entropy trains; the penalty falls on chosen units only."
    )
    alpha: float = option(0.01, "Weight of the penalty.", 0)
    beta: float = option(0.5, "Share of units penalised at first; falls to 0 over the epochs (Eq. 4).", 0, 1)
    eta: float = option(0.9, "Momentum of salience over its updates (Eq. 3); 0 takes the latest only.", 0, 1)
    regulariser: Literal["ar", "l1", "l2"] = option(
        "ar", "Penalty on a weight (Eq. 6, or Eq. 5 with k = 1, 2)."
    )
    metric: str = metric_option("bs", "What ranks units; any but bs: of the head, once an epoch.")
    granularity: Literal["unit", "weight"] = option(
        "unit", "Choose whole units (columns of the head, channels of a convolution) or single weights."
    )
    update: Literal["batch", "epoch"] = option("batch", "How often salience is renewed.")
    reduction: Literal["mean", "sum"] = option(
        "mean", "Cross-entropy over a batch: its mean, or its sum as printed."
    )
    last_layers: int = option(1, "How many of the last weight layers are penalised; 1 is the head.", 1)
    epochs: int = option(10, "Passes over the clean images.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.01, "Constant learning rate of SGD.", 0)
    momentum: float = option(0.0, "Momentum of SGD.", 0, 1)
