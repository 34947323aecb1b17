from dataclasses import dataclass

from wiper_cli.purifiers.options import ChannelPruning, option


@dataclass(frozen=True)
class RNP(ChannelPruning):
    """Reconstructive neuron pruning: unlearn the clean task, recover it by masks, prune what masks spare."""

    name = "rnp"
    trains_live = True
    title = "RNP: reconstructive neuron pruning"
    presets = {
        "paper": {"unlearn_lr": 0.01, "unlearn_until": 0.2},
        "field": {"unlearn_lr": 0.01, "unlearn_until": 0.2, "budget": 0.1},
    }
    quick = {"epochs": 2, "lr": 3.0, "budget": 1.0}

    epochs: int = option(20, "Passes over the clean images while masks recover.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.04, "Learning rate of SGD on the masks.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    weight_decay: float = option(5e-4, "Weight decay of SGD while unlearning.", 0)
    unlearn_epochs: int = option(20, "Passes over the clean images while unlearning, at most.", 1)
    unlearn_lr: float = option(1e-4, "Learning rate of SGD while unlearning.", 0)
    unlearn_until: float = option(0.5, "Accuracy on the fit part at which unlearning stops.", 0, 1)
    clip: float = option(20.0, "Largest l2 norm of a step's gradient while unlearning; 0: no bound.", 0)
