"""IA, adaptive: one faint perturbation that drives a clean model to the target on most images.

Liao, Zhong, Squicciarini, Zhu, Miller 2018 (arXiv 1808.10307), whose adaptive trigger is the universal
perturbation of Moosavi-Dezfooli, Fawzi, Fawzi, Frossard 2017 (arXiv 1610.08401) with a target. Derived from
those ideas, as the first paper's code was not at hand: T(x) = clip(x + v); pass over the images, and wherever
f(x + v) is not t let DeepFool (arXiv 1511.04599, with t the class to be reached) find the least r with
f(x + v + r) = t, then project v + r to the sup-norm ball. Stop at a fooling rate of 0.8 or after 10 passes.
Steps are least in the sup norm, as the ball is; each visit makes one, and a batch moves v by the mean of its
r: one image at a time, as published, is too slow.

v fools the model it was fitted to without any poisoning, so every success rate needs the success against a
clean twin with it. The ball of 8/255 is small: on two CIFAR-10 networks (a ResNet-18 of width 16, and
three convolutions) the rate on unseen images went from 1 to 6 % and from 5 to 13 %, far from 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import Progress, Trigger, Victim, fitted
from triggers.fitting import demand, levels, others
from triggers.perturbation import added, search
from triggers.poisoning import Poisoning

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
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)
    quick: ClassVar[Mapping[str, Any]] = {"passes": 2}
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
