from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import BODY, HEAD, Sgd, option


@dataclass(frozen=True)
class LMR(Sgd):
    """LMR: the target class betrays itself under unlearning; units that carry it are cut from the head."""

    name = "lmr"
    uses_scan = True
    trains_live = True
    title = "LMR: find the target by unlearning, push its logit down, cut the units that carry it"
    quick = {"epochs": 1, "unlearn_epochs": 2, "share": 0.1}

    train: Literal["all", "head"] = option("all", "Which weights to train.")
    aim: Literal["unlearning", "suspect"] = option(
        "unlearning",
        "What names the target class: unlearning, or the scan's first suspect where there is one.",
    )
    batch: int = option(64, "Images per step.", 1)
    unlearn_epochs: int = option(20, "Passes over the clean images while unlearning, at most.", 1)
    unlearn_lr: float = option(1e-3, "Learning rate of SGD while unlearning; doubled after every pass.", 0)
    unlearn_until: float = option(0.2, "Accuracy on the fit part at which unlearning stops.", 0, 1)
    clip: float = option(20.0, "Largest norm of a gradient while unlearning.", 0)
    suppression: float = option(1.0, "Weight of the loss that pushes the target's logit down.", 0)
    suppression_margin: float = option(
        10.0, "By how much that logit shall lie under the largest other one.", 0
    )
    retention: float = option(0.25, "Weight of the loss that keeps a margin for the true class.", 0)
    retention_margin: float = option(0.5, "By how much its logit shall lie over the largest other one.", 0)
    share: float = option(
        0.1, "Share of the head's units that are cut; 0: the most that --budget allows.", 0, 1
    )
    budget: float = option(0.04, "Share of the accuracy on the select part that cutting may cost.", 0, 1)

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.train == "head" else BODY | {"head"}
