from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import BODY, Sgd, option


@dataclass(frozen=True)
class AILancet(Sgd):
    """AI-Lancet: compares units with and without the trigger; needs images that carry it.

    A.4 gives no settings for it, and BackdoorBench does not have it: both presets are the defaults, ours.
    """

    name = "ai-lancet"
    title = "AI-Lancet: locate the neurons a known trigger moves, and repair them"
    presets = {"paper": {}, "field": {}}
    quick = {"epochs": 1, "last_layers": 2}
    needs = BODY | {"triggered"}

    repair: Literal["fine-tune", "flip"] = option(
        "fine-tune", "Train the located units alone, or turn the sign of what they send on."
    )
    share: float = option(0.1, "Share of the units of each layer that count as located.", 0, 1)
    last_layers: int = option(3, "The head, and of so many less one of the last convolutions channels.", 1)
