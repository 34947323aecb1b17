"""Plain fine-tuning: SGD on the cross-entropy of clean images.

Source: the baseline of Liu et al. 2018 and of the WIPER paper, table 1. Departs: batch norm stays frozen,
and the learning rate is 0.01 with momentum 0.9, falling as a cosine (the paper's 0.1 costs 9 to 12 points
of accuracy). Needs labels. Cost for each image and epoch: 1 forward and 1 backward pass; with ``train`` =
"head" one forward pass altogether.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.settings import FineTuning
from wiper_cli.purifiers.training import Batches, cosine, student_of, train


def purify(settings: FineTuning, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    clean = task.clean
    student = student_of(task.classifier, settings.train)
    batches = Batches(
        student.inputs(clean.fit),
        clean.fit.labels,
        settings.batch,
        student.device,
        torch.Generator().manual_seed(task.seed),
        flip=settings.flip,
        crop=settings.crop,
    )
    optimiser = torch.optim.SGD(
        student.weights.values(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(settings.epochs * len(batches)))

    def step(_: int, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(student.logits(inputs), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        return {"cross_entropy": loss}

    history = train(student, batches, settings.epochs, step, clean.select, task.progress)
    return Purified(student.edit(), history)
