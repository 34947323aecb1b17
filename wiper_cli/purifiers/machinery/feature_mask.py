"""A mask on the head's features that keeps what the clean task needs: what BTI-DBF and BAN share.

m in (0, 1)^D minimises CE(m h) - CE((1 - m) h) + w mean(m): benign features get 1, what is left gets 0. The body does
not change meanwhile, so features are computed once and a mask costs no pass of the network.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.images.splits import Part

BATCH = 128


def feature_mask(
    features: Part,
    weight: Tensor,
    bias: Tensor,
    epochs: int,
    lr: float,
    generator: torch.Generator,
    size_weight: float = 0.0,
) -> Tensor:
    """``features.images``: float32 [N,D]; the head: weight [K,D], bias [K] → m float32 [D].

    m = (1 + tanh t) / 2 with t from a normal distribution at first, trained by Adam.
    """
    h, labels = features.images, features.labels.to(features.images.device)
    t = torch.randn(h.shape[1], generator=generator).to(h.device).requires_grad_(True)
    optimiser = torch.optim.Adam([t], lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(h), generator=generator).split(BATCH):
            rows = rows.to(h.device)
            optimiser.zero_grad()
            torch.autograd.backward(
                objective((1 + t.tanh()) / 2, h[rows], labels[rows], weight, bias, size_weight)
            )
            optimiser.step()
    return ((1 + t.tanh()) / 2).detach()


def objective(
    mask: Tensor, h: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, size_weight: float
) -> Tensor:
    """CE(m h) - CE((1 - m) h) + ``size_weight`` mean(m): a scalar."""
    kept = F.cross_entropy(F.linear(mask * h, weight, bias), labels)
    rest = F.cross_entropy(F.linear((1 - mask) * h, weight, bias), labels)
    return kept - rest + size_weight * mask.mean()


def answers(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """How many of the features [N,D] the head takes for each class: int64 [K]."""
    return F.linear(h, weight, bias).argmax(1).bincount(minlength=len(bias))
