from dataclasses import dataclass

from wiper_cli.purifiers.options import Settings, option


@dataclass(frozen=True)
class CLP(Settings):
    """Channel Lipschitz pruning; looks at no image."""

    name = "clp"
    title = "Channel Lipschitz pruning, without data"
    presets = {"paper": {}, "field": {}}
    quick = {"deviations": 1.0}
    needs = frozenset({"body"})

    deviations: float = option(
        3.0, "Prune channels whose norm lies so many standard deviations above the layer's mean.", 0
    )
