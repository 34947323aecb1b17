"""Channel Lipschitz pruning: channels of outstanding spectral norm are removed; no image is looked at.

Source: Zheng et al. 2022 (arXiv 2208.03111). For each output channel of a convolution followed by batch norm, the
kernel scaled as batch norm scales it is read as a matrix [C_in, kh kw]; channels whose largest singular value
exceeds mean + u std of their layer (unbiased std, u = 3) are removed.

Departs: layers come from the autograd graph, so a convolution is paired with the norm that reads it (and not with
the next one declared), a folded file gives the same norms, and a convolution without norm is examined by its
kernel as it is. Weight *and bias* are set to 0, or after folding the bias would stay.
"""

import torch
from torch import Tensor

from formats import edit_of
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, bake, require_convolutions, scaled
from wiper_cli.purifiers.methods.clp import CLP


def purify(settings: CLP, task: Task) -> Purified:
    """Ignores the clean images and the seed."""
    copy = task.classifier.copy()
    assert copy.network is not None
    layers = require_convolutions(copy)
    masks = [kept(lipschitz(copy, layer), settings.deviations) for layer in layers]
    bake(copy, scaled(copy, layers, masks))
    count = sum(int((mask == 0).sum()) for mask in masks)
    note = f"{count} of {sum(layer.channels for layer in layers)} channels were removed."
    return Purified(edit_of(copy.model, copy.network.network), (), (note,))


def lipschitz(classifier: Classifier, layer: Layer) -> Tensor:
    """Largest singular value of every channel's kernel, as batch norm scales it: float32 [C]."""
    assert classifier.network is not None
    named = classifier.model.named(classifier.network.network)
    kernel: Tensor = named[layer.weight].detach().float().flatten(2)
    norm = layer.norm
    if norm is not None:
        gain = torch.rsqrt(norm.variance + norm.epsilon)
        if norm.weight is not None:
            gain = gain * named[norm.weight].detach().float()
        kernel = kernel * gain[:, None, None]
    norms: Tensor = torch.linalg.matrix_norm(kernel, ord=2)
    return norms


def kept(norms: Tensor, deviations: float) -> Tensor:
    """0.0 for norms above mean + ``deviations`` times the unbiased standard deviation, else 1.0: float32 [C]."""
    if len(norms) < 2:
        return torch.ones_like(norms)
    return (norms <= norms.mean() + deviations * norms.std()).float()
