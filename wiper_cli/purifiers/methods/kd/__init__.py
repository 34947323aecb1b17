from dataclasses import dataclass

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class KD(Sgd):
    """Knowledge distillation into a network of the same shape that starts anew."""

    name = "kd"
    trains_live = True
    title = "Knowledge distillation into a network initialised anew"
    presets = {"paper": {}, "field": {"epochs": 100, "batch": 256}}
    quick = {"epochs": 1}

    epochs: int = option(50, "Passes over the clean images.", 1)
    hard: float = option(0.5, "Weight of cross-entropy; the rest is divergence from the given network.", 0, 1)
    temperature: float = option(2.0, "Temperature of the divergence.", 0.1)
