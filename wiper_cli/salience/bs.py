"""Benign salience: how much the first-order loss would rise if a unit of the head were set to zero.

Source: WIPER, Eq. 1 to 3. For the unit j = column j of the head, with activation h_j and weights W_.j,

    BS_j = -sum_c (dL/dW_cj) W_cj = -sum_c G_cj W_cj = -E[h_j dL/dh_j]
    G    = (1/N) sum_n (p_n - onehot(y_n)) h_n^T

for mean cross-entropy L. One forward pass, no backward pass. High: the unit lowers the clean loss. Low or
negative: the clean data do not need it. On data that the network fits well p is nearly one-hot and BS mostly
noise; :mod:`wiper_cli.salience.stream` measures that as rank stability.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from formats.model import Head
from wiper_cli.salience.settings import MomentumSalience
from wiper_cli.verdict import ExitCode, Problem


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """d CE / d logits of each image, p - onehot(y): logits [N,K], labels int64 [N] → float64 [N,K]."""
    return logits.double().softmax(dim=1) - one_hot(labels, logits.shape[1])


def gradient_sum(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over images of d CE / dW: features [N,D], logits [N,K], labels int64 [N] → float64 [K,D]."""
    return residual(logits, labels).T @ features.double()


def unit_salience(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the mean loss [K,D] and the head's weight [K,D] → BS float64 [D] (Eq. 2, by columns)."""
    return -(gradient.double() * weight.double()).sum(dim=0)


def benign_salience(features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """BS of the head's units: features [N,D], logits [N,K], labels int64 [N], weight [K,D] → float64 [D]."""
    return unit_salience(gradient_sum(features, logits, labels) / len(labels), weight)


class Momentum:
    """MBS_i = eta MBS_{i-1} + (1 - eta) BS_i (Eq. 3), started by the first BS."""

    def __init__(self, eta: float) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in 0..1, not {eta}")
        self.eta = eta
        self.value: Tensor | None = None

    def update(self, salience: Tensor) -> Tensor:
        """Takes the next BS and returns the new MBS, both of any one shape."""
        if self.value is None:
            self.value = salience.clone()
        else:
            self.value = torch.lerp(salience, self.value, self.eta)
        return self.value


def momentum_salience(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, settings: MomentumSalience
) -> Tensor:
    """MBS after one step a batch, shapes as :func:`benign_salience`; depends on the order of the images."""
    momentum, value = Momentum(settings.eta), weight.new_zeros(weight.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(labels), device=labels.device).split(settings.batch):
        value = momentum.update(benign_salience(features[rows], logits[rows], labels[rows], weight))
    return value


def require_linear(head: Head | None) -> Head:
    """The head, if the closed form holds for it; raises :class:`Problem` if it does not."""
    if head is None:
        raise Problem(
            "No linear head was found, so salience of its units was not computed.", ExitCode.NO_VERDICT
        )
    if not head.linear:
        raise Problem(
            f"The logits are not a linear map of the inputs of {head.weight!r}, so the closed form of "
            "salience does not hold for this model.",
            ExitCode.NO_VERDICT,
        )
    return head
