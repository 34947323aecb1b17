"""Gradient magnitude of the head's units: how strongly the clean loss reacts to them, whatever the direction.

Source: WIPER, appendix A.1 (figure 4), where it does not tell bad units from good ones. With r_n = p_n -
onehot(y_n), the gradient of one image's cross-entropy by the column W_.j is r_n h_nj, and by h_nj it is
r_n . W_.j: both are closed forms of the head. The mean is over the images' magnitudes, not the magnitude of
the mean gradient, which is near zero in a trained network.
"""

from torch import Tensor

from wiper_cli.salience.bs import residual
from wiper_cli.salience.settings import GradientMagnitude


def gradient_magnitude(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, settings: GradientMagnitude
) -> Tensor:
    """E||dL/dW_.j||, or E|dL/dh_j|: features [N,D], logits [N,K], labels int64 [N], weight [K,D] → float64 [D]."""
    slope = residual(logits, labels)
    if settings.of == "activation":
        return (slope @ weight.double()).abs().mean(dim=0)
    return slope.square().sum(dim=1).sqrt() @ features.double().abs() / len(labels)
