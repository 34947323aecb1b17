"""TSBD: weights that clean unlearning changes most are set to 0, then the network is fine-tuned into a flat place.

Source: Lin et al. 2024 (Unveiling and Mitigating Backdoor Vulnerabilities based on Unlearning Weight Changes and
Backdoor Activeness). (1) A copy maximises cross-entropy on clean images until its accuracy is at chance; a channel's
change is sum |w' - w| over its kernel. (2) In the share n of channels that change most, over all layers, the
``weight_share`` of weights with the largest |w' - w| are set to 0. (3) Fine-tuning with the gradient
(1 - a) g(w) + a g(w + r g / ||g||).

Departs: batch norm stays frozen or folded; folded, the change is that of the kernel as it scales the channel. The
learning rate of unlearning doubles after every pass, since 1e-4 with batch norm standing still may never get there,
and gradients are clipped. With ``share`` 0, n is the largest of a grid with which the accuracy on the select part
stays within ``tolerance`` before fine-tuning. Fine-tuning lasts ``min_steps`` at least. Needs labels.
Default: of 6 settings (share 0.02 to 0.15 or chosen, learning rate 0.003 to 0.02) on the zoo's tiny badnet, blend and
wanet none cost at most 3 points of accuracy on the select part of all; a chosen share fell to the least, 0.01, and
cost 1 on wanet, 3 on badnet and 5 on blend.
Cost for each image and epoch: 1 forward and 1 backward pass while unlearning, 2 of both while fine-tuning.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.clean_unlearning import accuracy, unlearn
from wiper_cli.purifiers.machinery.layers import Layer, require_convolutions, substituted
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, precision
from wiper_cli.purifiers.methods.tsbd import TSBD

#: Shares of channels that are tried.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01)


def purify(settings: TSBD, task: Task) -> Purified:
    """Trains on ``clean.fit``, stops unlearning and chooses the share on ``clean.select``. Raises :class:`Problem`
    without convolutions."""
    student = NetworkStudent(task.classifier)
    layers = require_convolutions(student.classifier, task.classifier.as_float(task.clean.fit.images[:1]))
    before = accuracy(task.classifier, task.clean.select)
    changes, note = unlearned_changes(settings, task, layers)
    kernels = [student.weights[layer.weight] for layer in layers]
    found = [kernel.detach().clone() for kernel in kernels]
    share, after = settings.share, before
    for share in (settings.share,) if settings.share else SHARES:
        masks = kept(changes, share, settings.weight_share)
        with torch.no_grad():
            for kernel, value, mask in zip(kernels, found, masks, strict=True):
                kernel.copy_(value * mask)
        after = accuracy(student.classifier, task.clean.select)
        if after >= (1 - settings.tolerance) * before:
            break
    count = sum(int((mask == 0).sum()) for mask in masks)
    chosen = (
        f"{count} weights in {100 * share:.3g} % of the channels were set to 0; accuracy on the select part "
        f"{100 * before:.2f} % before, {100 * after:.2f} % then."
    )

    def loss(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        here = F.cross_entropy(student.logits(inputs), labels)
        gradients = torch.autograd.grad(here, list(student.weights.values()))
        with precision(student.device):
            there = substituted(student.classifier, uphill(student.weights, gradients, settings.rho), inputs)
        return {
            "cross_entropy": (1 - settings.alpha) * known(here, student.weights, gradients),
            "uphill": settings.alpha * F.cross_entropy(there, labels),
        }

    steps = max(1, len(task.clean.fit) // settings.batch)
    epochs = max(settings.epochs, math.ceil(settings.min_steps / steps))
    history = descend(student, task, replace(settings, epochs=epochs), loss)
    return Purified(student.edit(), history, (note, chosen))


def unlearned_changes(settings: TSBD, task: Task, layers: Sequence[Layer]) -> tuple[list[Tensor], str]:
    """Step 1: |w' - w| of every kernel, and a sentence about how far unlearning went."""
    copy = NetworkStudent(task.classifier)
    before = [copy.weights[layer.weight].detach().clone() for layer in layers]
    batches = Batches.of(settings, task.clean.fit.images, task.clean.fit.labels, copy.device, task.seed)
    steps, reached = unlearn(copy, batches, settings, task.clean.select)
    changes = [(copy.weights[at.weight].detach() - old).abs() for at, old in zip(layers, before, strict=True)]
    return changes, f"Unlearning took {steps} steps, to an accuracy of {100 * reached:.1f} %."


def kept(changes: Sequence[Tensor], share: float, weight_share: float) -> list[Tensor]:
    """Step 2: 0.0 for weights to be set to 0, else 1.0, of the shapes of ``changes`` [C, ...]: in the ``share`` of
    channels, over all layers, with the largest sum, the ``weight_share`` of weights with the largest change."""
    sums = [change.flatten(1).sum(1) for change in changes]
    order = torch.cat(sums).argsort(descending=True)
    chosen = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    chosen[order[: round(share * len(order))]] = True
    masks = []
    for change, rows in zip(changes, chosen.split([len(s) for s in sums]), strict=True):
        flat = change.flatten(1)
        count = round(weight_share * flat.shape[1])
        top = torch.zeros_like(flat).scatter(1, flat.topk(count, dim=1).indices, 1.0)
        masks.append((1 - top * rows[:, None]).reshape(change.shape))
    return masks


def uphill(weights: Mapping[str, Tensor], gradients: Sequence[Tensor], rho: float) -> dict[str, Tensor]:
    """w + rho g / ||g|| for every weight, the norm over all; the step is a constant, so that a gradient by w is the
    gradient there."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = rho / (norm + 1e-12)
    return {name: w + g.detach() * scale for (name, w), g in zip(weights.items(), gradients, strict=True)}


def known(value: Tensor, weights: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """``value`` with ``gradients`` by ``weights``, which are found already and so cost no second backward pass."""
    steps = [((w - w.detach()) * g).sum() for w, g in zip(weights.values(), gradients, strict=True)]
    return value.detach() + torch.stack(steps).sum()
