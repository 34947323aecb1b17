"""Universal perturbations: one v, added to every image, that drives a model to the target on most of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from triggers.family import Progress, check
from triggers.fitting import misfit, unfitted

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def search(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    target: int,
    generator: torch.Generator,
    *,
    direction: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    fooling: float,
    passes: int,
    batch: int,
    overshoot: float,
    settled: float = 0.0,
    progress: Progress,
) -> Tensor:
    """v float32 [C,H,W] that drives ``images`` uint8 [N,C,H,W] to ``target``: per batch, the mean of
    :func:`deepfool_step` over the images that are not there, then ``project``. Ends when a pass has found a
    share of ``fooling`` there, when that share moved less than ``settled`` over 5 passes, or after ``passes``.
    """
    import torch

    v = torch.zeros(images.shape[1:], device=images.device)
    shares: list[float] = []
    for number in range(passes):
        reached = 0
        for part in torch.randperm(len(images), generator=generator).to(images.device).split(batch):
            x = (images[part].float() / 255 + v).clamp(0, 1)
            steps, missed = deepfool_step(network, x, target, direction, overshoot)
            count = int(missed.sum())
            reached += len(part) - count
            if count:
                v = project(v + steps.sum(0) / count)
        progress("fit", number + 1, passes)
        shares.append(reached / len(images))
        if shares[-1] >= fooling or (len(shares) >= 5 and max(shares[-5:]) - min(shares[-5:]) < settled):
            break
    return v


def deepfool_step(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    target: int,
    direction: Callable[[Tensor], Tensor],
    overshoot: float,
) -> tuple[Tensor, Tensor]:
    """One linearised step of each image [N,C,H,W] to where ``target`` equals its strongest rival: (r
    [N,C,H,W], zero for images that are there; bool [N], which are not).

    With w = d(f_t - f_k)/dx and d = ``direction(w)``, r = (1 + overshoot) (f_k - f_t) d / <w, d>: the least
    step in the sup norm for the sign, in the Euclidean for the identity. Exact where f is linear.
    """
    import torch

    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = network(x)
        others = logits.detach().clone()
        others[:, target] = -torch.inf
        rival = others.argmax(1)
        margin = logits[:, target] - logits.gather(1, rival[:, None])[:, 0]
        (w,) = torch.autograd.grad(margin.sum(), x)
    missed = margin.detach() <= 0
    d = direction(w)
    slope = (w * d).flatten(1).sum(1)
    length = (1 + overshoot) * -margin.detach() / slope
    # A flat or falling slope offers no step.
    length = torch.where(missed & (slope > 1e-12), length, torch.zeros_like(length))
    return length[:, None, None, None].to(d.dtype) * d, missed


def added(name: str, images: Tensor, perturbation: Tensor | None) -> Tensor:
    """clip(x + v) for ``images`` of the size of v [C,H,W]; raises :class:`TriggerError` for others."""
    check(images)
    if perturbation is None:
        raise unfitted(name)
    if images.shape[1:] != perturbation.shape:
        raise misfit(name, perturbation.shape, images.shape[1:])
    return (images + perturbation.to(images)).clamp(0, 1)
