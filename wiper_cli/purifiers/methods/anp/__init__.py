from dataclasses import dataclass

from wiper_cli.purifiers.options import ChannelPruning, option


@dataclass(frozen=True)
class ANP(ChannelPruning):
    """Adversarial neuron pruning: channels that noise on channels turns against the loss."""

    name = "anp"
    trains_live = True
    title = "ANP: adversarial neuron pruning"
    presets = {
        "paper": {"steps": 2000, "lr": 0.2, "noise": 0.4},
        "field": {"steps": 2000, "lr": 0.2, "noise": 0.4, "budget": 0.1},
    }
    quick = {"steps": 2, "lr": 3.0, "budget": 1.0}

    steps: int = option(110, "Steps of the search for masks, rounded to whole passes.", 1)
    batch: int = option(128, "Images per step.", 1)
    lr: float = option(0.1, "Learning rate of SGD on the masks.", 0)
    momentum: float = option(0.9, "Momentum of SGD.", 0, 1)
    noise: float = option(0.03, "Largest relative noise on a channel.", 0)
    inner_steps: int = option(1, "Sign steps of the inner adversary.", 1)
    clean_weight: float = option(0.2, "Weight of the loss without noise; the rest is the loss with it.", 0, 1)
