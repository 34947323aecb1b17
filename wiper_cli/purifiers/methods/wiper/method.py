"""WIPER, Algorithm 1: cross-entropy on clean images, and a penalty on the units of least benign salience.

Source: "WIPER", sections 4.1 and 4.2, Eq. 1 to 7. What the paper leaves open is a setting; by default

* a unit of the head is one of its D inputs (a column), of a convolution an output channel; the printed
  "50 % of neurons" of a head with 10 outputs would be 5 classes;
* AR is even (Eq. 6 has a sign wrong, see :mod:`wiper_cli.purifiers.machinery.penalties`);
* salience is renewed with every batch (Protocol 1, line 10; Eq. 3 says epoch) from the backward pass that
  trains, so it is that of the weights before the step;
* cross-entropy is the batch mean. Eq. 7 prints a sum, for which the rate of 0.01 is 128 times larger.

``metric`` other than "bs" ranks the head's units on the fit part before training and after every epoch.

With the paper's numbers the penalty moves a weight by lr alpha = 1e-4 a step: at most 0.02 over 200 steps.
Batch norm stays frozen unless asked for live. Needs labels. Cost for each image: 1 forward pass for the first
salience, then 1 forward and 1 backward pass an epoch; with ``train`` = "head" one forward pass altogether.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.penalties import REGULARISERS, lowest, unit_dimension
from wiper_cli.purifiers.machinery.pruning import over_units, unit_scores
from wiper_cli.purifiers.machinery.training import (
    Batches,
    HeadStudent,
    NetworkStudent,
    student_of,
    switch,
    train,
)
from wiper_cli.purifiers.methods.wiper import Wiper
from wiper_cli.salience import METRICS
from wiper_cli.salience.bs import Momentum, require_linear
from wiper_cli.verdict import Problem


@dataclass(frozen=True)
class Layer:
    """A penalised weight; ``within``: its dimensions that lie inside one unit (none: single weights)."""

    name: str
    weight: Tensor
    within: tuple[int, ...]

    def salience(self, gradient: Tensor) -> Tensor:
        """Eq. 2: gradient of the mean loss, of the weight's shape → float64, 1 in the dimensions within."""
        product = -(gradient.double() * self.weight.detach().double())
        return product.sum(dim=self.within, keepdim=True) if self.within else product


def purify(settings: Wiper, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    clean = task.clean
    student = student_of(task.classifier, settings.train, task.live)
    generator = torch.Generator().manual_seed(task.seed)
    inputs = student.inputs(clean.fit)
    batches = Batches.of(settings, inputs, clean.fit.labels, student.device, generator)
    layers = penalised(student, batches, settings)
    penalty, slope = REGULARISERS[settings.regulariser]
    momenta = [Momentum(settings.eta) for _ in layers]
    by_gradient = settings.metric == "bs"

    def ranked() -> list[Tensor]:
        if by_gradient:
            return first_salience(student, layers, batches)
        return [units_by(settings, student, inputs, clean.fit, layers[0].weight)]

    scores = [m.update(s) for m, s in zip(momenta, ranked(), strict=True)]
    chosen = [lowest(score, settings.beta) for score in scores]
    initial, size_before = chosen, sum_of_chosen(layers, chosen)
    optimiser = torch.optim.SGD(student.weights.values(), lr=settings.lr, momentum=settings.momentum)
    gathered = [torch.zeros_like(score) for score in scores]

    def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        nonlocal chosen, scores
        epoch, place = divmod(i, len(batches))
        share = settings.beta * (1 - epoch / settings.epochs)  # Eq. 4
        if place == 0:
            chosen = [lowest(score, share) for score in scores]
        loss = F.cross_entropy(student.logits(x), y, reduction=settings.reduction)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        per_image = 1.0 if settings.reduction == "mean" else 1 / len(y)
        size = loss.new_zeros(())
        for layer, mask, total in zip(layers, chosen, gathered, strict=True):
            assert layer.weight.grad is not None
            total += layer.salience(layer.weight.grad * per_image)
            weight = layer.weight.detach()
            layer.weight.grad += settings.alpha * mask * slope(weight)  # Eq. 7
            size = size + (mask * penalty(weight)).sum()
        optimiser.step()
        last = place == len(batches) - 1
        if last and not by_gradient:
            scores = [m.update(s) for m, s in zip(momenta, ranked(), strict=True)]
        elif by_gradient and (settings.update == "batch" or last):
            count = 1 if settings.update == "batch" else len(batches)
            for n, (momentum, total) in enumerate(zip(momenta, gathered, strict=True)):
                scores[n] = momentum.update(total / count)  # Eq. 3
                total.zero_()
            chosen = [lowest(score, share) for score in scores]
        return {"cross_entropy": loss * per_image, "penalty": settings.alpha * size}

    history = train(student, batches, settings.epochs, step, clean.select, task.progress)
    note = (
        f"Sum of |w| over the units chosen first: {size_before:.4g} before, "
        f"{sum_of_chosen(layers, initial):.4g} after."
    )
    return Purified(student.edit(), history, (note,))


def units_by(
    settings: Wiper, student: NetworkStudent | HeadStudent, inputs: Tensor, part: Part, weight: Tensor
) -> Tensor:
    """A metric's value of every unit of the head, with the weights as they stand: float64, 1 in the dimensions
    of the head's weight that lie inside a unit."""
    if settings.last_layers > 1 or settings.granularity == "weight":
        raise Problem(f"--metric {settings.metric} ranks units of the head only; other layers need bs.")
    if isinstance(student, HeadStudent):
        with torch.no_grad():
            logits = student.logits(inputs)
        labels = part.labels.to(inputs.device)
        return METRICS[settings.metric](inputs, logits, labels, student.weight)[None]
    head = require_linear(student.classifier.model.head)
    switch(
        student.norms, False
    )  # it may be asked within a step, and ranks the network as it will be deployed
    return over_units(head, unit_scores(student.classifier, part, settings.metric), weight).to(weight.device)


def penalised(student: NetworkStudent | HeadStudent, batches: Batches, settings: Wiper) -> list[Layer]:
    """The last ``settings.last_layers`` weights, head first."""
    by_weight = settings.granularity == "weight"
    if isinstance(student, HeadStudent):
        if settings.last_layers > 1:
            raise Problem("More than one layer can be penalised only with --train all.")
        return [Layer(student.head.weight, student.weight, () if by_weight else (0,))]
    names = backward_order(student, batches)
    head = student.classifier.model.head
    if head is not None and head.weight in names:
        names.remove(head.weight)
        names.insert(0, head.weight)
    layers = []
    for name in names[: settings.last_layers]:
        weight = student.weights[name]
        channel = unit_dimension(head) if head is not None and name == head.weight else 0
        within = tuple(d for d in range(weight.dim()) if d != channel)
        layers.append(Layer(name, weight, () if by_weight else within))
    return layers


def backward_order(student: NetworkStudent, batches: Batches) -> list[str]:
    """Names of all weights of two or more dimensions, in the order in which a backward pass reaches them:
    from the output to the input, whatever the file calls them."""
    arrived: list[str] = []

    def arrive(name: str, _: Tensor) -> None:
        arrived.append(name)

    hooks = [
        weight.register_post_accumulate_grad_hook(partial(arrive, name))
        for name, weight in student.weights.items()
        if weight.dim() >= 2
    ]
    x = batches.inputs[:2].float() / 255
    torch.autograd.backward(student.logits(x).sum())
    for hook in hooks:
        hook.remove()
    for weight in student.weights.values():
        weight.grad = None
    return arrived


def first_salience(
    student: NetworkStudent | HeadStudent, layers: list[Layer], batches: Batches
) -> list[Tensor]:
    """Eq. 2 over all of the fit part, without augmentation: float64, one a layer."""
    weights = [layer.weight for layer in layers]
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    for x, y in zip(torch.split(batches.inputs, 256), torch.split(batches.labels, 256), strict=True):
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        loss = F.cross_entropy(student.logits(x), y, reduction="sum")
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
    count = len(batches.labels)
    return [layer.salience(total / count) for layer, total in zip(layers, sums, strict=True)]


def sum_of_chosen(layers: list[Layer], masks: list[Tensor]) -> float:
    """Sum of |w| over the chosen units."""
    return sum(
        float((mask * layer.weight.detach().abs()).sum()) for layer, mask in zip(layers, masks, strict=True)
    )
