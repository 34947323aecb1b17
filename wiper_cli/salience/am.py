"""Activation magnitude of the head's units, by both definitions in use.

Fine-Pruning (Liu et al. 2018) takes E|h_j|; the WIPER paper's footnote writes |w x|, summed here over the
classes: E sum_c |W_cj h_j|. Both are large for a unit that is active, whether or not the clean data need it.
"""

from torch import Tensor


def activation_magnitude(features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """E|h_j|: features [N,D] → float64 [D]; the other arguments are the common signature's."""
    return features.double().abs().mean(dim=0)


def weigh(magnitude: Tensor, weight: Tensor) -> Tensor:
    """E|h_j| [D] and the head's weight [K,D] → E sum_c |W_cj h_j|, float64 [D]."""
    return magnitude.double() * weight.double().abs().sum(dim=0)


def weighted_activation_magnitude(features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """E sum_c |W_cj h_j|: features [N,D], weight [K,D] → float64 [D]."""
    return weigh(activation_magnitude(features, logits, labels, weight), weight)
