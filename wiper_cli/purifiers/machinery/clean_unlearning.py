"""Clean unlearning, which several methods begin with: cross-entropy on clean images is *maximised* for a while."""

import math
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.machinery import training
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, Student, switch
from wiper_cli.verdict import ExitCode, Problem

#: Cross-entropy at which the clean task counts as lost, in units of log K, that of a guess among K classes.
ENOUGH = 5.0


class UnlearningSettings(Protocol):
    """The settings it reads."""

    @property
    def unlearn_epochs(self) -> int: ...
    @property
    def unlearn_lr(self) -> float: ...
    @property
    def unlearn_until(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def clip(self) -> float: ...


def unlearn(
    student: Student, batches: Batches, settings: UnlearningSettings, part: Part
) -> tuple[int, float]:
    """Trains ``student`` until its accuracy on ``part`` is at most ``unlearn_until``, or the loss of a pass
    :data:`ENOUGH` times that of a guess: (steps, accuracy reached).

    The learning rate doubles after every pass, since batch norm that stands still neither limits a step nor lets a
    small one show; gradients are clipped. The batch norm of a live student works on the batch meanwhile. Raises
    :class:`Problem` when the loss is no longer finite.
    """
    weights = list(student.weights.values())
    inputs, norms = student.inputs(part), norms_of(student)
    optimiser = torch.optim.SGD(weights, lr=settings.unlearn_lr, momentum=settings.momentum)
    steps, reached = 0, 1.0
    for _ in range(settings.unlearn_epochs):
        total = 0.0
        for x, y in batches:
            switch(norms, True)
            logits = student.logits(x)
            switch(norms, False)
            loss = F.cross_entropy(logits, y)
            total += float(loss.detach())
            optimiser.zero_grad()
            torch.autograd.backward(-loss)
            torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimiser.step()
            steps += 1
        if not math.isfinite(total):
            raise Problem(
                "Unlearning diverged: the loss is not a finite number; use a lower --unlearn-lr.",
                ExitCode.NO_VERDICT,
            )
        reached = training.accuracy(student, inputs, part.labels)
        if reached <= settings.unlearn_until or total > ENOUGH * len(batches) * math.log(logits.shape[1]):
            break
        for group in optimiser.param_groups:
            group["lr"] *= 2
    return steps, reached


def norms_of(student: Student) -> list[nn.Module]:
    """The batch norms that train with ``student``: none of a head, none unless live."""
    return student.norms if isinstance(student, NetworkStudent) else []


def accuracy(classifier: Classifier, part: Part) -> float:
    """Share of ``part`` that ``classifier`` answers rightly; works head-only. Raises :class:`Problem` when there are
    no images, since then nothing can be chosen on them."""
    if not len(part):
        raise Problem("There are no clean images on which a setting could be chosen.", ExitCode.NO_VERDICT)
    return float((classifier.answers(part.images) == part.labels).float().mean())
