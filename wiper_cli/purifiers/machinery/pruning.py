"""What methods that remove units or channels share: scores on clean images, masks, and their application.

A unit of the head is one of its inputs; a channel is an output channel of a convolution, and removing it sets its
pre-activation ``norm(conv(x))`` to 0, which means the same whether batch norm is live or folded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from formats import Head
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.machinery.layers import Layer, ones, require_convolutions, scaled, substituted, taps
from wiper_cli.salience import METRICS
from wiper_cli.salience.bs import require_linear
from wiper_cli.verdict import Problem

#: Metrics that also rank channels of convolutions.
CHANNEL_METRICS = ("bs", "am")


def unit_scores(classifier: Classifier, part: Part, metric: str) -> Tensor:
    """Importance of the head's units on ``part`` by one of :data:`METRICS`: float64 [D] on the CPU.

    Raises :class:`Problem` when the head is not linear or there are no images.
    """
    require_linear(classifier.model.head)
    features, logits = classifier.features(part.images)
    weight = classifier.head()[0].to(features.device)
    return METRICS[metric](features, logits, part.labels.to(features.device), weight).cpu()


def last_convolutions(classifier: Classifier, count: int) -> tuple[Layer, ...]:
    """The last ``count`` convolutions whose channels can be masked, fewer where there are fewer."""
    return require_convolutions(classifier)[-count:] if count else ()


def channel_scores(classifier: Classifier, layers: Sequence[Layer], part: Part, metric: str) -> list[Tensor]:
    """Importance of output channels on ``part``: float64 [C] a layer, on the CPU.

    With a = norm(conv(x)): "am" is E|a|, averaged over space, "bs" -E[sum over space of a dL/da], which is minus
    the gradient of cross-entropy by a factor on the channel. Raises :class:`Problem` for other metrics.
    """
    if metric not in CHANNEL_METRICS:
        raise Problem(
            f"--metric {metric} ranks units of the head only; with more than one of --last-layers use "
            f"{' or '.join(CHANNEL_METRICS)}."
        )
    sums = [torch.zeros(layer.channels, dtype=torch.float64, device=classifier.device) for layer in layers]
    factors = [factor.requires_grad_(True) for factor in ones(classifier, layers)]
    for images, labels in zip(part.images.split(128), part.labels.split(128), strict=True):
        x = classifier.as_float(images)
        if metric == "am":
            found = [y.abs().mean((2, 3)).sum(0) for y in channel_outputs(classifier, layers, x)]
        else:
            with torch.enable_grad():
                logits = substituted(classifier, scaled(classifier, layers, factors), x)
                loss = F.cross_entropy(logits, labels.to(x.device), reduction="sum")
            found = [-gradient for gradient in torch.autograd.grad(loss, factors)]
        for total, value in zip(sums, found, strict=True):
            total += value
    return [total.cpu() / max(1, len(part)) for total in sums]


def channel_outputs(classifier: Classifier, layers: Sequence[Layer], x: Tensor) -> list[Tensor]:
    """norm(conv(x)) of every layer for images in 0..1, detached: float32 [N,C,H,W]."""
    with taps(classifier, layers) as tap:
        tapped = tap(x)
        return [tapped.output(index).detach() for index in range(len(layers))]


def keep(scores: Tensor, share: float) -> Tensor:
    """1.0 for what stays, 0.0 for the ``share`` of least score; float32, shape of ``scores``."""
    mask = torch.ones(scores.numel())
    mask[scores.flatten().topk(round(share * scores.numel()), largest=False).indices] = 0
    return mask.reshape(scores.shape)


def over_units(head: Head, mask: Tensor, weight: Tensor) -> Tensor:
    """A mask of the units [D] in a shape that multiplies the stored ``weight`` of the head."""
    if head.layout == "in_out":
        return mask[:, None]
    return mask.reshape(1, *weight.shape[1:])
