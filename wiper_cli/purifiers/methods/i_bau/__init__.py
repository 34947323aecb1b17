from dataclasses import dataclass

from wiper_cli.purifiers.options import Settings, option


@dataclass(frozen=True)
class IBAU(Settings):
    """Implicit backdoor adversarial unlearning of one universal perturbation.

    ``paper``: A.4 gives C_delta = 10 and no more; rate and fixed-point steps are those of the authors' code.
    ``field``: BackdoorBench, where nothing bounds the perturbation. Defaults: of six settings tried on BadNet of
    the zoo's tiny suite, the strongest that costs at most 3 points on the select part; tried on Blend and WaNet too.
    """

    name = "i-bau"
    title = "I-BAU: minimax unlearning by implicit hypergradients"
    presets = {
        "paper": {"lr": 1e-3, "radius": 10.0, "fixed_point": 5},
        "field": {"lr": 1e-4, "radius": 0.0, "fixed_point": 5, "stamped": 0.01},
    }
    quick = {"epochs": 1, "min_steps": 2, "fixed_point": 2}

    epochs: int = option(5, "Rounds; each finds a perturbation anew and then unlearns it.", 1)
    min_steps: int = option(100, "Steps at least: a small clean set is passed more often.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(2e-4, "Learning rate of Adam.", 0)
    radius: float = option(
        4.0, "Largest l2 norm of the perturbation, in the units of the network's input; 0: no bound.", 0
    )
    fixed_point: int = option(3, "Steps of the fixed-point iteration for the hypergradient.", 1)
    stamped: float = option(
        0.1, "Share of a batch that carries the perturbation while it is unlearned.", 0, 1
    )
