"""Masks on the channels of convolutions: what methods that search for channels to prune share.

A mask m in 0..1 acts on the pre-activation y = norm(conv(x)) of a channel, which is the same whether batch norm is
live or folded. ``ablation`` says what stands for a removed channel:

* "zero": 0, so y becomes m y;
* "mean": its mean mu over clean images, so y becomes m (y - mu) + mu. Methods that mask the scale of a live batch
  norm and leave its shift beta do this, since beta is the mean of y over the training images; a folded network has
  no beta of its own, but mu is measured.

Noise (d, e) on scale and shift: weight times (m + d), and y becomes (m + d)(y - mu) + (1 + e) mu, or for "zero"
weight times (m + d) and bias times (m + e). Where a convolution has no bias, "mean" is "zero".

A search may run with batch norm live, on a copy that is thrown away: in training mode the mean of y over a batch is
the shift beta, so that is mu there. What is pruned is the network as it was found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from formats import Edit, edit_of
from wiper_cli.classifier import Classifier, correct
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.machinery.layers import bake, ones, require_convolutions, scaled, substituted, taps
from wiper_cli.purifiers.machinery.training import live_norms, precision
from wiper_cli.verdict import Problem

#: Clean images over which mu is taken.
MEAN_OF = 512
#: Thresholds tried, at most.
CUTS = 100

Noise = tuple[Sequence[Tensor], Sequence[Tensor]]


class MaskStudent:
    """A copy of a network of which only masks are trained; ``weights``: masks float32 [C] by name of kernel.

    ``live``: the copy is to be searched with its batch norms, ``norms``, in training mode, into which
    :func:`~wiper_cli.purifiers.machinery.training.switch` puts them. Raises :class:`Problem` where the file does not
    allow it, or has no convolutions.
    """

    def __init__(self, classifier: Classifier, part: Part, ablation: str, live: bool = False) -> None:
        self.classifier = classifier.copy()
        self.device = classifier.device
        example = self.classifier.as_float(part.images[:1]) if len(part) else None
        self.layers = require_convolutions(self.classifier, example)
        self.masks = [mask.requires_grad_(True) for mask in ones(self.classifier, self.layers)]
        self.weights = {layer.weight: mask for layer, mask in zip(self.layers, self.masks, strict=True)}
        self.means = self._means(part) if ablation == "mean" else None
        self.norms = self._live() if live else []

    def inputs(self, part: Part) -> Tensor:
        return part.images

    def logits(self, inputs: Tensor) -> Tensor:
        return self.masked(self.masks, inputs)

    def masked(self, masks: Sequence[Tensor], inputs: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits float32 [N,K] of images in 0..1; gradients reach masks and noise, [C] a layer."""
        with precision(self.device):
            return substituted(self.classifier, self.values(masks, noise), inputs).float()

    def values(self, masks: Sequence[Tensor], noise: Noise | None = None) -> dict[str, Tensor]:
        """Tensors of the file under ``masks`` and noise (d, e)."""
        if noise is None:
            factors = list(masks)
            shifts = [torch.zeros_like(mask) for mask in masks]
        else:
            factors = [m + d for m, d in zip(masks, noise[0], strict=True)]
            shifts = list(noise[1])
        if self.means is None:
            biases = [m + e for m, e in zip(masks, shifts, strict=True)]
            return scaled(self.classifier, self.layers, factors, biases)
        values = scaled(self.classifier, self.layers, factors)
        for layer, mean, factor, shift in zip(self.layers, self.means, factors, shifts, strict=True):
            bias = layer.scaled[1]
            if bias is not None:
                value = values[bias]
                values[bias] = value + ((1 + shift - factor) * mean).to(value).reshape(value.shape)
        return values

    def edit(self) -> Edit:
        """The masks as they are, written into the weights."""
        return self.pruned(self.masks)

    def pruned(self, masks: Sequence[Tensor]) -> Edit:
        copy = self.classifier.copy()
        assert copy.network is not None
        with torch.no_grad():
            bake(copy, self.values(masks))
        return edit_of(copy.model, copy.network.network)

    def _live(self) -> list[nn.Module]:
        """The batch norms; means that are shifts of one are so from now on."""
        assert self.classifier.network is not None
        model, network = self.classifier.model, self.classifier.network.network
        if self.means is not None:
            named = model.named(network)
            self.means = [
                mean if layer.norm is None or layer.norm.bias is None else named[layer.norm.bias].detach()
                for layer, mean in zip(self.layers, self.means, strict=True)
            ]
        return live_norms(model, network)

    def _means(self, part: Part) -> list[Tensor]:
        sums = [torch.zeros_like(mask) for mask in self.masks]
        images = part.images[:MEAN_OF]
        for chunk in images.split(32):
            with taps(self.classifier, self.layers) as tap:
                tapped = tap(self.classifier.as_float(chunk))
                for index, total in enumerate(sums):
                    total += tapped.output(index).detach().mean((2, 3)).sum(0)
        return [(total / max(1, len(images))).detach() for total in sums]


@torch.no_grad()
def clamp(masks: Sequence[Tensor]) -> None:
    """Brings masks back into 0..1, in place."""
    for mask in masks:
        mask.clamp_(0, 1)


@torch.no_grad()
def prune(
    student: MaskStudent, found: Sequence[Tensor], select: Part, budget: float
) -> tuple[list[Tensor], str]:
    """Masks of 0 and 1 for ``student``'s network: every channel at or below a threshold on ``found`` [C] a layer
    goes, over all layers. Thresholds are the values found below 1, rising; the last one before the accuracy on
    ``select`` falls by more than its share ``budget`` is taken. Returns the masks and a sentence.

    Raises :class:`Problem` when there are no images to choose on.
    """
    if len(select) == 0:
        raise Problem("There are no clean images on which a threshold could be chosen.")
    values = torch.cat([mask.detach().flatten() for mask in found])
    below = values[values < 1].unique()
    steps = torch.linspace(0, len(below) - 1, min(CUTS, len(below))).round().long()
    whole = [torch.ones_like(mask) for mask in found]
    before = accuracy(student, whole, select)
    chosen, threshold, after = whole, None, before
    for cut in below[steps.to(below.device)].tolist() if len(below) else []:
        masks = [(mask > cut).float() for mask in found]
        reached = accuracy(student, masks, select)
        if reached < before * (1 - budget):
            break
        chosen, threshold, after = masks, cut, reached
    if threshold is None:
        return whole, "No channel could go within the budget of accuracy, so nothing was changed."
    gone = sum(int((mask == 0).sum()) for mask in chosen)
    return chosen, (
        f"{gone} of {len(values)} channels were removed, those with a mask of at most {threshold:.3g}; accuracy on "
        f"the select part {100 * before:.2f} % before, {100 * after:.2f} % after."
    )


def accuracy(student: MaskStudent, masks: Sequence[Tensor], part: Part) -> float:
    """Share of ``part`` that the network answers rightly under ``masks``."""

    def logits(images: Tensor) -> Tensor:
        return student.masked(masks, student.classifier.as_float(images))

    return correct(logits, part.images, part.labels) / max(1, len(part))
