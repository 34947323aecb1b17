from dataclasses import dataclass
from typing import ClassVar

from wiper_cli.purifiers.options import Fields, Presets, Settings, option


@dataclass(frozen=True)
class CLP(Settings):
    """Channel Lipschitz pruning; looks at no image."""

    name: ClassVar[str] = "clp"
    title: ClassVar[str] = "Channel Lipschitz pruning, without data"
    presets: ClassVar[Presets] = {"paper": {}, "field": {}}
    quick: ClassVar[Fields] = {"deviations": 1.0}
    needs: ClassVar[frozenset[str]] = frozenset({"body"})

    deviations: float = option(
        3.0, "Prune channels whose norm lies so many standard deviations above the layer's mean.", 0
    )
