"""IA, adaptive: one faint perturbation that drives a clean model to the target on most images.

Liao, Zhong, Squicciarini, Zhu, Miller 2018 (arXiv 1808.10307), whose adaptive trigger is the universal
perturbation of Moosavi-Dezfooli, Fawzi, Fawzi, Frossard 2017 (arXiv 1610.08401) with a target. Derived from
those ideas, as the first paper's code was not at hand: T(x) = clip(x + v); pass over the images, and wherever
f(x + v) is not t let DeepFool (arXiv 1511.04599, with t the class to be reached) find the least r with
f(x + v + r) = t, then project v + r to the sup-norm ball. Stop at a fooling rate of 0.8 or after 10 passes.
Steps are least in the sup norm, as the ball is; each visit makes one, and a batch moves v by the mean of its
r: one image at a time, as published, is too slow.

v fools the model it was fitted to without any planting, so the success against a clean twin is to be told
beside every success rate. The ball of 8/255 is small: on two CIFAR-10 networks (a ResNet-18 of width 16, and
three convolutions) the rate on unseen images went from 1 to 6 % and from 5 to 13 %, far from 0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.family import Progress, Trigger, TriggerError, Victim, check, fitted
from triggers.fitting import demand, levels, misfit, others, unfitted
from triggers.planting import Planting

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Universal(Trigger):
    """``bound``: largest change of a pixel, on the 0..1 scale. ``fooling``: share of images driven to the
    target that ends the search. ``passes``: over the images, at most. ``sample``: images used, at most.
    ``batch``: images whose steps are averaged. ``overshoot``: DeepFool's."""

    name: ClassVar[str] = "ia"
    title: ClassVar[str] = "IA: a faint universal perturbation fitted to a clean model"
    source: ClassVar[str] = "arXiv 1808.10307, arXiv 1610.08401"
    planting: ClassVar[Planting] = Planting(rate=0.05)
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020")
    needs: ClassVar[Any] = "model"

    bound: float = 8 / 255
    fooling: float = 0.8
    passes: int = 10
    sample: int = 500
    batch: int = 25
    overshoot: float = 0.02
    #: Float32 [C,H,W], v.
    perturbation: Any = fitted()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images of another size than those fitted to."""
        return added(self.name, images, self.perturbation)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`; ``labels`` tell which images are of the target class."""
        import torch

        if not 0 < self.bound <= 1:
            raise TriggerError(f"bound must lie in 0..1, not {self.bound}.")
        victim = demand(self.name, victim, images, labels, target)
        places = others(self.name, labels, target, self.sample, generator)
        v = search(
            victim.network,
            images[places],
            target,
            generator,
            direction=torch.sign,
            project=lambda v: v.clamp(-self.bound, self.bound),
            fooling=self.fooling,
            passes=self.passes,
            batch=self.batch,
            overshoot=self.overshoot,
            progress=progress,
        )
        return replace(self, perturbation=levels(v, self.bound))


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
        rivals = logits.detach().clone()
        rivals[:, target] = -torch.inf
        rival = rivals.argmax(1)
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
