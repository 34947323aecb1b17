"""The loop of the methods that only add a loss: SGD with momentum on a sum of weighted parts."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wiper_cli.purifiers.contract import Epoch, Task
from wiper_cli.purifiers.machinery.training import Batches, Student, cosine, train
from wiper_cli.purifiers.options import Sgd

Loss = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


def descend(
    student: Student, task: Task, settings: Sgd, loss: Loss, after: Callable[[], None] | None = None
) -> list[Epoch]:
    """Trains ``student`` on ``clean.fit``; ``clean.select`` is only measured.

    ``loss(inputs, labels)`` gives scalar parts with their weights in them; their sum is minimised. ``after`` is
    called behind every step. Raises :class:`Problem` when a loss is not finite.
    """
    batches = Batches.of(
        settings, student.inputs(task.clean.fit), task.clean.fit.labels, student.device, task.seed
    )
    optimiser = torch.optim.SGD(
        student.weights.values(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, factor(settings.schedule, settings.epochs, len(batches))
    )

    def step(_: int, inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        parts = loss(inputs, labels)
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(student.weights.values(), settings.clip)
        optimiser.step()
        schedule.step()
        if after is not None:
            after()
        return parts

    return train(student, batches, settings.epochs, step, task.clean.select, task.progress)


def factor(schedule: str, epochs: int, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate at a step, with ``steps`` steps an epoch: see :class:`Sgd`."""
    if schedule == "cosine":
        return cosine(epochs * steps)
    if schedule == "step":
        return lambda step: float(0.1 ** (step // (2 * steps)))
    return lambda step: 1.0
