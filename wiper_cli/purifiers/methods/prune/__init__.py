from dataclasses import dataclass
from typing import Literal

from wiper_cli.purifiers.options import BODY, HEAD, Settings, metric_option, option


@dataclass(frozen=True)
class Prune(Settings):
    """Removing units or channels of least salience, without training (WIPER, Tables 9 and 10)."""

    name = "prune"
    title = "Pruning of the least salient units, without training"
    presets = {"paper": {}, "field": {"metric": "am"}}
    quick = {"last_layers": 3}

    share: float = option(0.1, "Share of the units (and channels of each layer) removed, lowest first.", 0, 1)
    metric: str = metric_option("bs", "What ranks them; channels by bs and am only.")
    ablation: Literal["zero", "mean"] = option(
        "zero", "What stands for a removed unit: 0, or its mean over the clean images."
    )
    last_layers: int = option(1, "The head, and of so many less one of the last convolutions channels.", 1)

    @property
    def needs(self) -> frozenset[str]:
        return HEAD if self.last_layers == 1 else BODY | HEAD
