from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import Sgd, metric_option, option


@dataclass(frozen=True)
class FinePruning(Sgd):
    """Fine-Pruning: units of the head that clean images leave at rest are removed, then all is fine-tuned."""

    name = "fine-pruning"
    trains_live = True
    title = "Fine-Pruning: prune dormant units, then fine-tune"
    presets = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "constant", "clip": 1.0},
        "field": {"share": 0.99, "tolerance": 0.1, "epochs": 100, "batch": 256},
    }
    quick = {"epochs": 1}

    train: Literal["all", "head"] = option("all", "Which weights to train after pruning.")
    share: float = option(0.1, "Share of the units removed, lowest first.", 0, 1)
    tolerance: float = option(
        0.0,
        "Stop removing before the accuracy on the select part falls by more than this share of itself; 0: never.",
        0,
        1,
    )
    metric: str = metric_option("am", "What ranks units: any metric of salience.")
