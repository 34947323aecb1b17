from dataclasses import dataclass

from wiper_cli.purifiers.options import BODY, Sgd, option


@dataclass(frozen=True)
class FST(Sgd):
    """Feature shift tuning: a new head, pushed away from the old one."""

    name = "fst"
    trains_live = True
    title = "FST: feature shift tuning under a new head"
    presets = {
        "paper": {"epochs": 10, "batch": 128, "alpha": 0.1},
        "field": {"epochs": 10, "batch": 128, "alpha": 0.2},
    }
    quick = {"epochs": 1}
    needs = BODY | {"head"}

    epochs: int = option(20, "Passes over the clean images.", 1)
    batch: int = option(64, "Images per step.", 1)
    alpha: float = option(0.02, "Weight of the inner product of new and old head; 0 for many classes.", 0)
    weight_decay: float = option(0.0, "Weight decay of SGD.", 0)
