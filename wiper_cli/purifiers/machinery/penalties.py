"""Penalties on single weights with their slopes, and the choice of the units they fall on.

Adaptive regularisation (AR: WIPER, Eq. 6), L1 and L2 (Eq. 5). Eq. 6 prints -e^(-w-1) for w < -1, which is
negative and decreases without bound; AR is taken as the even function that Figure 1 of the paper draws:

    AR(w)  = |w| for |w| <= 1,  e^(|w|-1) beyond
    AR'(w) = sign(w) max(1, e^(|w|-1)),  with the subgradient 0 at 0

Both are continuous at |w| = 1. Where all |w| <= 1, AR is L1. L2 is w^2, slope 2w. e^(|w|-1) leaves the
range of float32 at |w| near 89.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from formats import Head


def ar(w: Tensor) -> Tensor:
    """Elementwise AR(w) >= 0."""
    size = w.abs()
    return torch.where(size <= 1, size, (size - 1).exp())


def ar_slope(w: Tensor) -> Tensor:
    """Elementwise AR'(w)."""
    return w.sign() * (w.abs() - 1).clamp_min(0).exp()


def l2(w: Tensor) -> Tensor:
    return w.square()


def l2_slope(w: Tensor) -> Tensor:
    return 2 * w


Elementwise = Callable[[Tensor], Tensor]

#: Penalty and slope by name.
REGULARISERS: Mapping[str, tuple[Elementwise, Elementwise]] = {
    "ar": (ar, ar_slope),
    "l1": (torch.abs, torch.sign),
    "l2": (l2, l2_slope),
}


def lowest(score: Tensor, share: float) -> Tensor:
    """1.0 at the ``share`` of the entries with the least score, else 0.0; float32, shape of ``score``."""
    count = round(share * score.numel())
    mask = torch.zeros(score.numel(), device=score.device)
    mask[score.flatten().topk(count, largest=False).indices] = 1
    return mask.reshape(score.shape)


def unit_dimension(head: Head) -> int:
    """Dimension of the stored head weight that counts its units."""
    return 0 if head.layout == "in_out" else 1
