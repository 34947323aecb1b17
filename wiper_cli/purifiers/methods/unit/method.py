"""UNIT: upper bounds on activations, as tight as accuracy allows; then distilled into the weights.

Source: Cheng et al. 2024 (arXiv 2407.11372). Every element of every activation gets a bound, at first mean +
``deviations`` standard deviations over clean images; Adam minimises CE + c sum over layers of the mean bound. c starts
at ``bound_weight``, doubles after 5 checks in a row within the budget of accuracy and falls by 2^1.5 after 5 in a row
outside of it. The tightest bounds within the budget count.

Departs: **a file of fixed tensors cannot carry a bound**, so the bounded network becomes a teacher, and the weights
learn to answer as it does: T^2 KL at temperature 2 on clean images and on images that an adversary (l-inf ``reach``)
moves to where the two differ, since on clean images alone bounds that nothing touches teach nothing. What is lost on
the way stands in the notes; results are those of the distilled network, not of UNIT as published. Steps see a batch
instead of all images, the learning rate of a layer's bounds is in units of their first mean, and the budget is a
share of the accuracy on the select part (the original: 3 points of it). Batch norm plays no part. Default:
the one setting tried that suits a small machine; it cost 1 point of accuracy on the select part of the zoo's tiny
badnet, blend and wanet. Needs labels. Cost: 1 forward and 1 backward pass for each image of a step, and a forward pass
over the select part; for each image and epoch of the distillation ``inner_steps`` + 2 passes of the teacher and
``inner_steps`` + 2 forward and backward passes of the network.
"""

from collections.abc import Sequence
from itertools import chain, repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier, correct
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Epoch, Purified, Task
from wiper_cli.purifiers.machinery.bounds import Network, bounded, first_bounds, gradients
from wiper_cli.purifiers.machinery.clean_unlearning import accuracy
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, cosine, train
from wiper_cli.purifiers.methods.unit import UNIT

PATIENCE = 5
TEMPERATURE = 2.0


class Weight:
    """The weight c of the bounds, which follows the accuracy."""

    def __init__(self, first: float) -> None:
        self.first = self.value = first
        self.within = self.outside = self.low = 0

    def update(self, fits: bool) -> None:
        """After a step whose accuracy is within the budget, or not."""
        self.low = self.low + 1 if fits and self.value < self.first else 0
        self.within = self.within + 1 if fits else 0
        self.outside = 0 if fits else self.outside + 1
        if self.low >= PATIENCE:
            self.value, self.low, self.within = self.first, 0, 0
        elif self.within >= PATIENCE:
            self.value, self.within = self.value * 2, 0
        elif self.outside >= PATIENCE:
            self.value, self.outside = self.value / 2**1.5, 0


def purify(settings: UNIT, task: Task) -> Purified:
    """Tightens and distils on ``clean.fit``, accepts bounds on ``clean.select``. Raises :class:`Problem`
    without activations."""
    student = NetworkStudent(task.classifier)
    teacher = task.classifier.copy()
    assert teacher.network is not None
    generator = torch.Generator().manual_seed(task.seed)
    before = accuracy(teacher, task.clean.select)
    bounds, note = tighten(settings, task, teacher, before, generator)
    history, agreed = distil(settings, task, student, teacher.network, bounds, generator)
    after = history[-1].select_accuracy
    notes = (
        note,
        f"Distilled into the weights, without bounds, accuracy is {100 * after:.2f} %; the same answer as the bounded "
        f"network on {100 * agreed[0]:.1f} % of the clean and {100 * agreed[1]:.1f} % of the adversarial images of "
        f"the last epoch. A file cannot hold bounds, so this is not all that UNIT would do.",
    )
    return Purified(student.edit(), history, notes)


def tighten(
    settings: UNIT, task: Task, teacher: Classifier, before: float, generator: torch.Generator
) -> tuple[list[Tensor], str]:
    """The tightest bounds within the budget, and a sentence; the first ones when none were within it."""
    assert teacher.network is not None
    network, part = teacher.network, task.clean.fit
    chunks = [teacher.as_float(images) for images in part.images.split(settings.batch)]
    bounds = first_bounds(network, chunks, settings.deviations)
    start = float(size_of(bounds))
    best, best_size, best_accuracy = bounds, start, before
    parameters = [bound.clone() for bound in bounds]
    groups = [{"params": [p], "lr": settings.bound_lr * max(float(p.mean()), 1e-3)} for p in parameters]
    optimiser = torch.optim.Adam(groups, betas=(0.5, 0.9))
    weight, floor = Weight(settings.bound_weight), (1 - settings.budget) * before
    batches = Batches(part.images, part.labels, settings.batch, teacher.device, generator)
    for step, (x, y) in zip(range(settings.steps), chain.from_iterable(repeat(batches)), strict=False):
        now = [p.clamp_min(0) for p in parameters]

        def loss(logits: Tensor, labels: Tensor = y) -> Tensor:
            return F.cross_entropy(logits, labels)

        _, found = gradients(network, now, x, loss)
        for parameter, gradient in zip(parameters, found, strict=True):
            slope = weight.value / parameter.numel()
            parameter.grad = torch.where(parameter < 0, 0.0, gradient + slope)
        optimiser.step()
        now = [p.clamp_min(0) for p in parameters]
        reached = bounded_accuracy(teacher, now, task.clean.select)
        size = float(size_of(now))
        if reached >= floor and size < best_size:
            best, best_size, best_accuracy = now, size, reached
        weight.update(reached >= floor)
        task.progress("bounds", step + 1, settings.steps)
    return [bound.detach() for bound in best], (
        f"Bounds fell from {start:.4g} to {best_size:.4g} (sum over layers of their means); accuracy on the select "
        f"part {100 * before:.2f} % without them, {100 * best_accuracy:.2f} % with them."
    )


def size_of(bounds: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean bound."""
    return torch.stack([bound.mean() for bound in bounds]).sum()


def bounded_accuracy(teacher: Classifier, bounds: Sequence[Tensor], part: Part) -> float:
    """Share of ``part`` that the bounded network answers rightly."""
    network = teacher.network
    assert network is not None

    def logits(images: Tensor) -> Tensor:
        return bounded(network, bounds, teacher.as_float(images))

    return correct(logits, part.images, part.labels) / max(1, len(part))


def distil(
    settings: UNIT,
    task: Task,
    student: NetworkStudent,
    network: Network,
    bounds: Sequence[Tensor],
    generator: torch.Generator,
) -> tuple[list[Epoch], tuple[float, float]]:
    """Trains ``student``; the history, and the shares of clean and adversarial images of the last epoch with the
    answer of the bounded ``network``."""
    part = task.clean.fit
    batches = Batches.of(settings, part.images, part.labels, student.device, generator)
    optimiser = torch.optim.Adam(student.weights.values(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(settings.epochs * len(batches), 0.1))
    agreed = [0.0, 0.0]

    def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        if i % len(batches) == 0:
            agreed[:] = [0.0, 0.0]
        z = adversary(settings, student, network, bounds, x, generator)
        with torch.no_grad():
            aims = [bounded(network, bounds, images) for images in (x, z)]
        logits = student.logits(torch.cat([x, z])).split(len(x))
        for n in range(2):
            agreed[n] += float((aims[n].argmax(1) == logits[n].argmax(1)).float().mean()) / len(batches)
        parts = {
            "clean": divergence(aims[0], logits[0]),
            "adversarial": divergence(aims[1], logits[1]),
            "cross_entropy": 0.1 * F.cross_entropy(logits[0], y),
        }
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        torch.nn.utils.clip_grad_norm_(student.weights.values(), 1.0)
        optimiser.step()
        schedule.step()
        return parts

    history = train(student, batches, settings.epochs, step, task.clean.select, task.progress)
    return history, (agreed[0], agreed[1])


def adversary(
    settings: UNIT,
    student: NetworkStudent,
    network: Network,
    bounds: Sequence[Tensor],
    x: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Images within ``reach`` of ``x``, and in 0..1, where the student differs from the bounded network; a start at
    random, then sign steps of 2 reach / ``inner_steps``."""
    reach = settings.reach
    start = (2 * torch.rand(x.shape, generator=generator) - 1).to(x.device) * reach
    z = (x + start).clamp(0, 1)
    for _ in range(settings.inner_steps):
        z = z.detach().requires_grad_(True)
        differ = divergence(bounded(network, bounds, z), student.logits(z))
        (slope,) = torch.autograd.grad(differ, z)
        z = z.detach() + 2 * reach / settings.inner_steps * slope.sign()
        z = torch.minimum(torch.maximum(z, x - reach), x + reach).clamp(0, 1)
    return z.detach()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """T^2 KL(teacher || student) at temperature T = 2, batch mean; logits [N,K]."""
    p = F.log_softmax(teacher / TEMPERATURE, dim=1)
    q = F.log_softmax(student / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
