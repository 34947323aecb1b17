"""Pruning alone: the least salient units of the head, or channels, are removed; nothing is trained.

Source: "Pruning + AM / BS" of WIPER, Tables 9 and 10. The paper does not say what stands for a removed unit:
``ablation`` "zero", or "mean", its mean over the clean images, which for a channel becomes the bias of the
convolution (or of the live batch norm) and for a unit goes into the head's bias.

Needs labels and a linear head; channels need gradients through the body. Cost for each image: 1 forward pass;
channels 1 forward and 1 backward pass more.
"""

import torch
from torch import Tensor

from formats import Edit, edit_of, head_edit
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, bake, scaled
from wiper_cli.purifiers.machinery.pruning import (
    channel_outputs,
    channel_scores,
    keep,
    last_convolutions,
    over_units,
    unit_scores,
)
from wiper_cli.purifiers.methods.prune import Prune
from wiper_cli.salience.bs import require_linear
from wiper_cli.verdict import Problem


def purify(settings: Prune, task: Task) -> Purified:
    """Ranks on ``clean.fit``; a share of each layer goes."""
    classifier, part = task.classifier, task.clean.fit
    head = require_linear(classifier.model.head)
    mean = settings.ablation == "mean"
    if mean and head.bias is None:
        raise Problem("The head has no bias that could hold the mean of a removed unit; use --ablation zero.")
    mask = keep(unit_scores(classifier, part, settings.metric), settings.share)
    notes = [f"{int((mask == 0).sum())} of {head.units} units of the head were removed."]
    features = classifier.features(part.images)[0].mean(0).cpu() if mean else torch.zeros(head.units)
    moved = features * (1 - mask)
    if settings.last_layers == 1:
        weight, bias = (value.cpu() for value in classifier.head())
        return Purified(head_edit(classifier.model, weight * mask, bias + weight @ moved), (), notes)
    layers = last_convolutions(classifier, settings.last_layers - 1)
    scores = channel_scores(classifier, layers, part, settings.metric)
    masks = [keep(score, settings.share).to(classifier.device) for score in scores]
    copy = classifier.copy()
    assert copy.network is not None
    values = scaled(copy, layers, masks)
    if mean:
        _fill(classifier, layers, masks, values, part)
    bake(copy, values)
    named = classifier.model.named(copy.network.network)
    with torch.no_grad():
        weight = named[head.weight]
        if head.bias is not None:
            matrix = weight.T if head.layout == "in_out" else weight.reshape(head.classes, head.units)
            named[head.bias].add_((matrix @ moved.to(weight)).reshape(named[head.bias].shape))
        weight.mul_(over_units(head, mask.to(weight), weight))
    for layer, kept in zip(layers, masks, strict=True):
        notes.append(f"{int((kept == 0).sum())} of {layer.channels} channels of {layer.weight} were removed.")
    edit: Edit = edit_of(classifier.model, copy.network.network)
    return Purified(edit, (), notes)


def _fill(
    classifier: Classifier,
    layers: tuple[Layer, ...],
    masks: list[Tensor],
    values: dict[str, Tensor],
    part: Part,
) -> None:
    """Puts the mean of every removed channel into the bias among ``values``."""
    sums = [torch.zeros(layer.channels, device=classifier.device) for layer in layers]
    for images in part.images.split(128):
        for total, y in zip(
            sums, channel_outputs(classifier, layers, classifier.as_float(images)), strict=True
        ):
            total += y.mean((2, 3)).sum(0)
    for layer, mask, total in zip(layers, masks, sums, strict=True):
        bias = layer.scaled[1]
        if bias is None:
            raise Problem(f"The convolution {layer.weight} has no bias to hold a mean; use --ablation zero.")
        values[bias] = values[bias] + ((1 - mask) * total / len(part)).reshape(values[bias].shape)
