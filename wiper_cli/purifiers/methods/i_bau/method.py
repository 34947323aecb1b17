"""I-BAU: minimax unlearning of one universal perturbation, with the implicit hypergradient.

    min over w of G(d*(w), w),   d*(w) = argmin over d of F(d, w) = -mean CE(f(x + d), y) + 0.001 |d|_2

    dG/dw = G_w + (dphi/dw)^T (I - (dphi/dd)^T)^-1 G_d,   phi(d, w) = d - 0.1 F_d(d, w)

where G is cross-entropy on the perturbed images and the inverse is taken by a fixed-point iteration, v <- (dphi/dd)^T
v + G_d. Each round finds d anew by one pass of gradient steps from 0, then takes one Adam step a batch.

Source: Zeng et al. 2022 (arXiv 2110.03735); the constants 0.001, 0.1 and the inner rate of 10 are those of its
public code as we know it. As there, d is added to what the network reads, after mean and std: 10 is about 2.4 on
images in 0..1 where std is 0.24, and every constant has that unit. There and in BackdoorBench the projection to
|d|_2 <= 10 (WIPER's A.4) is disabled; here ``radius`` bounds d after every inner step. Both perturb 1 % of each
batch; ``stamped`` is the share. Perturbed images are not clipped. Batch norm is frozen, as in the original.

Needs labels and second derivatives of the body. Cost for each image and round: 1 forward and 1 backward pass, then
2 forward and about 4 + 2 ``fixed_point`` backward passes.
"""

from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent, train
from wiper_cli.purifiers.methods.i_bau import IBAU

INNER_RATE = 10.0
FIXED_POINT_RATE = 0.1
NORM_WEIGHT = 0.001

#: A scalar of (perturbation, weights).
Objective = Callable[[Tensor, Sequence[Tensor]], Tensor]


def purify(settings: IBAU, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    student, fit = NetworkStudent(task.classifier), task.clean.fit
    generator = torch.Generator().manual_seed(task.seed)
    steps_a_pass = max(1, len(fit) // settings.batch)
    passes = ceil(max(1.0, settings.min_steps / (settings.epochs * steps_a_pass)))
    batches = Batches(fit.images, fit.labels, settings.batch, student.device, generator, passes)
    weights = list(student.weights.values())
    optimiser = torch.optim.Adam(weights, lr=settings.lr)
    delta = torch.zeros(1, *fit.images.shape[1:], device=student.device)
    x0 = student.classifier.as_float(fit.images[: settings.batch])
    y0 = fit.labels[: settings.batch].to(student.device)

    unit = student.network.std

    def adverse(x: Tensor, y: Tensor, d: Tensor) -> Tensor:
        return -F.cross_entropy(student.network(x + unit * d).float(), y) + NORM_WEIGHT * _norm(d)

    def step(i: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        nonlocal delta
        if i % len(batches) == 0:
            delta = perturb(adverse, batches, delta.shape, settings.radius)
        count = max(1, round(settings.stamped * len(x)))

        def outer(d: Tensor, _: Sequence[Tensor]) -> Tensor:
            stamped = torch.cat([x[:count] + unit * d, x[count:]])
            return F.cross_entropy(student.network(stamped).float(), y)

        def inner(d: Tensor, _: Sequence[Tensor]) -> Tensor:
            return adverse(x0, y0, d)

        loss, gradients = hypergradient(inner, outer, delta, weights, settings.fixed_point, FIXED_POINT_RATE)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimiser.step()
        return {"perturbed_cross_entropy": loss, "perturbation_norm": delta.norm()}

    history = train(student, batches, settings.epochs, step, task.clean.select, task.progress)
    return Purified(student.edit(), history)


def perturb(
    adverse: Callable[[Tensor, Tensor, Tensor], Tensor], batches: Batches, shape: torch.Size, radius: float
) -> Tensor:
    """One pass of gradient steps on ``adverse(x, y, d)`` from d = 0: float32 of ``shape``, detached."""
    delta = torch.zeros(shape, device=batches.inputs.device)
    for x, y in batches:
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(adverse(x, y, delta), delta)
        delta = delta.detach() - INNER_RATE * gradient
        if radius:
            delta = delta * (radius / delta.norm().clamp_min(radius))
    return delta


def hypergradient(
    inner: Objective, outer: Objective, delta: Tensor, weights: Sequence[Tensor], steps: int, rate: float
) -> tuple[Tensor, list[Tensor]]:
    """(outer, its total derivative by every weight) at ``delta``, taken as a minimum of ``inner``.

    ``steps`` of the fixed-point iteration, which begins at 0, for the map d - ``rate`` inner_d.
    """
    delta = delta.detach().requires_grad_(True)
    loss = outer(delta, weights)
    by_delta, *direct = torch.autograd.grad(loss, [delta, *weights], allow_unused=True)
    (slope,) = torch.autograd.grad(inner(delta, weights), delta, create_graph=True)
    image = delta - rate * slope
    v = torch.zeros_like(delta)
    for _ in range(steps):
        (pulled,) = torch.autograd.grad(image, delta, v, retain_graph=True)
        v = pulled + by_delta
    through = torch.autograd.grad(image, weights, v, allow_unused=True)
    gradients = []
    for weight, *parts in zip(weights, direct, through, strict=True):
        gradients.append(sum((part for part in parts if part is not None), torch.zeros_like(weight)))
    return loss.detach(), gradients


def _norm(d: Tensor) -> Tensor:
    """l2 norm, with derivative 0 at 0."""
    return (d.square().sum() + 1e-12).sqrt()
