"""RNP: reconstructive neuron pruning. Unlearn the clean task, let masks recover it, prune what they switch off.

Source: Li et al. 2023 (arXiv 2305.14876). (1) Cross-entropy on clean images is maximised until the accuracy on
them has fallen to ``unlearn_until``; (2) the weights of that network are fixed and masks m in 0..1 on its channels
minimise cross-entropy; (3) channels with small masks are removed from the network as it was found.

Departs: masks act on the pre-activation of every convolution (see :mod:`wiper_cli.purifiers.masks`) where the
original has them on batch norm, and batch norm stays frozen or folded: at the original's rate of
0.01 masks could not recover the bundled digits, hence a default of 1e-4. On the select part of tiny's
BadNet masks recovered 54 % of 73 % from a stop at 0.2 at a rate of 0.01, 71 % from 0.5 at 0.04, hence these two
defaults; even so the smallest masks stood on early channels, which no threshold may take. Gradients are clipped
after they are computed (public code clips them before), and unlearning also stops at the first single batch that
meets its bound, where the original looks after every epoch. The original's factor 0.2 on the loss of (2) is part of
``lr`` here. The threshold is the largest that keeps the accuracy on the select part.

Needs labels. Cost for each image and epoch: 1 forward and 1 backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.masks import MaskStudent, clamp, prune
from wiper_cli.purifiers.settings_field import RNP
from wiper_cli.purifiers.training import Batches, NetworkStudent, train


def purify(settings: RNP, task: Task) -> Purified:
    """Works on ``clean.fit``, chooses the threshold on ``clean.select``. The history is that of the recovery.
    Raises :class:`Problem` when head-only or without convolutions."""
    clean = task.clean
    whole = MaskStudent(task.classifier, clean.fit, settings.ablation)
    batches = Batches(
        clean.fit.images,
        clean.fit.labels,
        settings.batch,
        whole.device,
        torch.Generator().manual_seed(task.seed),
        flip=settings.flip,
        crop=settings.crop,
    )
    unlearned, sentence = unlearn(settings, task.classifier, batches)
    student = MaskStudent(unlearned, clean.fit, settings.ablation)
    optimiser = torch.optim.SGD(student.masks, lr=settings.lr, momentum=settings.momentum)

    def step(_: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(student.logits(x), y)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        clamp(student.masks)
        return {"cross_entropy": loss}

    history = train(student, batches, settings.epochs, step, clean.select, task.progress)
    masks, note = prune(whole, student.masks, clean.select, settings.budget)
    return Purified(whole.pruned(masks), history, (sentence, note))


def unlearn(settings: RNP, classifier: Classifier, batches: Batches) -> tuple[Classifier, str]:
    """A copy of ``classifier`` that has lost the clean task, and a sentence about how far it went."""
    student = NetworkStudent(classifier)
    weights = list(student.weights.values())
    optimiser = torch.optim.SGD(
        weights, lr=settings.unlearn_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    right: list[Tensor] = []
    steps, accuracy = 0, 1.0
    for _ in range(settings.unlearn_epochs):
        for x, y in batches:
            logits = student.logits(x)
            right = [*right, (logits.argmax(1) == y).float().mean()][-len(batches) :]
            accuracy = float(torch.stack(right).mean())
            if accuracy <= settings.unlearn_until or float(right[-1]) <= settings.unlearn_until:
                break
            optimiser.zero_grad()
            torch.autograd.backward(-F.cross_entropy(logits, y))
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimiser.step()
            steps += 1
        else:
            continue
        break
    for weight in weights:
        weight.requires_grad_(False)
    return student.classifier, (
        f"Unlearning took {steps} steps, to an accuracy of {100 * float(right[-1]):.1f} % on the last batch."
    )
