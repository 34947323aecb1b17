from dataclasses import dataclass

from wiper_cli.purifiers.options import Sgd, option


@dataclass(frozen=True)
class NAD(Sgd):
    """Neural attention distillation from a fine-tuned teacher; unclipped, frozen batch norm lets it diverge."""

    name = "nad"
    trains_live = True
    title = "Neural attention distillation"
    presets = {
        "paper": {"lr": 0.1, "weight_decay": 1e-4, "schedule": "step", "epochs": 10},
        "field": {"batch": 64},
    }
    quick = {"epochs": 1, "teacher_epochs": 1}

    epochs: int = option(20, "Passes over the clean images.", 1)
    attention: float = option(
        1000.0, "Weight of attention at the two deepest places; half of it before them.", 0
    )
    clip: float = option(1.0, "Largest l2 norm of a step's gradient; 0: no bound.", 0)
    teacher_epochs: int = option(10, "Passes of the fine-tuning that makes the teacher.", 1)
