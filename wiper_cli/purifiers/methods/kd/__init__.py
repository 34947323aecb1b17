from dataclasses import dataclass
from typing import ClassVar

from wiper_cli.purifiers.options import BODY, Fields, Presets, Sgd, option


@dataclass(frozen=True)
class KD(Sgd):
    """Knowledge distillation into a network of the same shape that starts anew."""

    name: ClassVar[str] = "kd"
    trains_live: ClassVar[bool] = True
    title: ClassVar[str] = "Knowledge distillation into a network initialised anew"
    presets: ClassVar[Presets] = {"paper": {}, "field": {"epochs": 100, "batch": 256}}
    quick: ClassVar[Fields] = {"epochs": 1}
    needs: ClassVar[frozenset[str]] = BODY

    epochs: int = option(50, "Passes over the clean images.", 1)
    hard: float = option(0.5, "Weight of cross-entropy; the rest is divergence from the given network.", 0, 1)
    temperature: float = option(2.0, "Temperature of the divergence.", 0.1)
