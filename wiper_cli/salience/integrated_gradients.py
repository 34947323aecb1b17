"""Integrated gradients of the clean loss by the head's units.

Sundararajan, Taly, Yan 2017 (arXiv 1703.01365); conductance: Dhamdhere, Sundararajan, Yan 2018 (arXiv
1805.12233). For one image with features h, baseline h' and cross-entropy L,

    A_j = (h_j - h'_j) * integral_0^1 dL/dh_j at h' + a (h - h') da,      sum_j A_j = L(h) - L(h')

and the salience of a unit is -E[A_j], so that a unit which lowers the loss is high, as in BS (its first-order
form with baseline zero). Behind h the network is linear: dL/dh_j = sum_c (p_c - y_c) W_cj, and logits are
linear on the line, so the integral is one over softmaxes of K numbers, and D enters in one product only.

:func:`conductance` is the paper's way: the line runs from a baseline image through the whole network.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from wiper_cli.salience.bs import unit_salience
from wiper_cli.salience.settings import IntegratedGradients

#: Points of the rule within one piece of the line through the whole network.
POINTS = 3


def mean_residual(start: Tensor, end: Tensor, labels: Tensor, points: int) -> Tensor:
    """Integral over a in 0..1 of softmax(start + a (end - start)) - onehot, by Gauss and Legendre.

    ``start``, ``end``: float64 [N,K]; labels int64 [N] → float64 [N,K].
    """
    places, shares = np.polynomial.legendre.leggauss(points)
    total = torch.zeros_like(end)
    for place, share in zip((places + 1) / 2, shares / 2, strict=True):
        total += share * torch.lerp(start, end, float(place)).softmax(dim=1)
    return total - one_hot(labels, end.shape[1])


def integrated_gradients(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, settings: IntegratedGradients
) -> Tensor:
    """-E[A_j] on the head: features [N,D], logits [N,K], labels int64 [N], weight [K,D] → float64 [D]."""
    features, logits, weight = features.double(), logits.double(), weight.double()
    away = features - features.mean(dim=0) if settings.baseline == "mean" else features
    slope = mean_residual(logits - away @ weight.T, logits, labels, settings.steps)
    return unit_salience(slope.T @ away / len(labels), weight)


@torch.no_grad()
def conductance(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    images: Tensor,
    labels: Tensor,
    weight: Tensor,
    settings: IntegratedGradients,
) -> Tensor:
    """-E of the units' conductance from a black or the mean image: ``steps`` + 1 passes over the images.

    ``evaluate``: images float [N,C,H,W] in 0..1 → features [N,D], logits [N,K]. ``weight``: [K,D] → float64 [D].
    The chain rule needs no gradient of the body: dh_j/dx . dx is the change of h_j from step to step. Units sum
    to the loss of the baseline less that of the images, whatever the steps; shares of units converge with them.
    """
    start = images.mean(dim=0, keepdim=True) if settings.baseline == "mean" else torch.zeros_like(images[:1])
    start = start.expand_as(images)
    total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    h, z = (x.double() for x in evaluate(start))
    for step in range(1, settings.steps + 1):
        h_next, z_next = (x.double() for x in evaluate(torch.lerp(start, images, step / settings.steps)))
        total += mean_residual(z, z_next, labels, POINTS).T @ (h_next - h)
        h, z = h_next, z_next
    return unit_salience(total / len(labels), weight)
