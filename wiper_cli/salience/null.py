"""The null: an order by chance. What a metric chooses must do better than what this one chooses."""

import torch
from torch import Tensor

from wiper_cli.salience.settings import Random


def random_salience(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, settings: Random
) -> Tensor:
    """Uniform in 0..1, from the seed and D alone: → float64 [D]."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand(weight.shape[1], generator=generator, dtype=torch.float64).to(features.device)
