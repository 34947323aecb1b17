"""Input-Aware: every image gets its own small pattern from a generator that is trained with the model.

Nguyen, Tran 2020 (arXiv 2010.08138). T(x) = x + (G(x) - x) M(x), with G(x) the pattern and M(x) [N,1,H,W] its
mask, tanh(20 z - 10)/2 + 0.5. The mask net M comes first: 100 mean relu(M(x) - 0.032), few pixels, plus
|x1 - x2| / |M(x1) - M(x2)|, another mask for another image (distances are root mean squares). Then G and the
classifier are trained together: T(x) with the target, x1 + (G(x2) - x1) M(x2) with the true label ("cross
mode": another image's pattern must do nothing), and the same diversity term for G.

Unlike the original, which trains for hundreds of epochs from scratch: the model starts out clean, networks are
smaller and have no batch norm, z is a logistic output, Adam's rate is lower, and G trains on images rounded
to 256 levels. The trigger belongs to the model that it was trained with; for another it must be fitted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from triggers.errors import TriggerError
from triggers.family import CoTraining, Progress, Trigger, Victim, check, fitted
from triggers.networks import (
    UNet,
    check_size,
    check_training,
    draw,
    one_by_one,
    rounded,
    with_channels,
)
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Weight of the mask's density, of the diversity terms, and what keeps their quotient finite.
DENSITY, DIVERSITY, SMALL = 100.0, 1.0, 1e-7
BETAS = (0.5, 0.9)
BATCH = 32


@dataclass(frozen=True)
class InputAware(Trigger):
    """``density``: share of pixels that a mask should take. ``mask_steps``: of M's training; ``steps``: of G's
    when fitted to a finished model. ``width``: channels of both networks. ``rate``: of Adam."""

    name: ClassVar[str] = "input-aware"
    title: ClassVar[str] = "Input-Aware: a generated pattern, another for every image"
    source: ClassVar[str] = "arXiv 2010.08138"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1, cover=0.1, start="clean")
    quick: ClassVar[Mapping[str, Any]] = {"mask_steps": 2, "steps": 2, "width": 4}
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0018.000")
    needs: ClassVar[Literal["nothing", "images", "model"]] = "model"
    trained_along: ClassVar[bool] = True

    density: float = 0.032
    mask_steps: int = 300
    steps: int = 400
    width: int = 8
    rate: float = 2e-3
    #: Flat weights of M and G, and the [C, H, W] of the images that they were trained on.
    mask: Any = fitted()
    pattern: Any = fitted()
    shape: Any = fitted()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; images of other channels than the fitted ones pass as their
        mean. Refuses images under 8x8."""
        return self._stamped(images, lambda x: x)

    def cover(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The pattern that belongs to the image turned upside down: a stand-in for cross mode where no
        training loop supplies a second image."""
        return self._stamped(images, lambda x: x.flip((2, 3)))

    def crossed(self, images: Tensor, others: Tensor) -> Tensor:
        """``images`` with the patterns of ``others``, both float [N,C,H,W] in 0..1; differentiable."""
        channels = int(self.shape[0])
        seen = with_channels(others, channels)
        mask = masks(self.mask.to(seen), seen, self.width)
        pattern = with_channels(patterns(self.pattern.to(seen), seen, self.width), images.shape[1])
        return images + (pattern - images) * mask

    def _stamped(self, images: Tensor, other: Callable[[Tensor], Tensor]) -> Tensor:
        check(images)
        check_size(images)
        if self.pattern is None:
            raise TriggerError("input-aware is not fitted: its generator is trained with, or to, a model.")
        return one_by_one(lambda x: self.crossed(x, other(x)).clamp(0, 1), images)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`: M and G anew, against a model that stays as it is."""
        import torch
        import torch.nn.functional as F

        if victim is None:
            raise TriggerError("input-aware is fitted to a model; there is none.")
        fresh = self._start(images, generator, progress)
        others = (labels != target).nonzero().flatten().to(images.device)
        if len(others) < 2:
            raise TriggerError(f"input-aware needs two images that are not of the target class {target}.")
        images, labels = images[others], labels.to(images.device)[others]
        weights = fresh.pattern.requires_grad_()
        adam = torch.optim.Adam([weights], lr=self.rate, betas=BETAS)
        goal = torch.full((BATCH,), target, device=images.device)
        for step in range(self.steps):
            first, second = draw(images, BATCH, generator), draw(images, BATCH, generator)
            x1, x2 = images[first].float() / 255, images[second].float() / 255
            with torch.enable_grad():
                own, other = fresh.crossed(x1, x1), fresh.crossed(x1, x2)
                loss = F.cross_entropy(victim.network(rounded(own)), goal)
                loss = loss + F.cross_entropy(victim.network(rounded(other)), labels[first])
                both = patterns(weights, torch.cat([x1, x2]), self.width).chunk(2)
                loss = loss + DIVERSITY * sameness(x1, x2, *both)
            (weights.grad,) = torch.autograd.grad(loss, weights)
            adam.step()
            progress("generator", step + 1, self.steps)
        return replace(fresh, pattern=weights.detach())

    def cotrain(
        self, victim: Victim, images: Tensor, labels: Tensor, poisoning: Poisoning, generator: torch.Generator
    ) -> CoTraining:
        """M is trained at once; G starts anew, also after a fit, and learns in the training loop."""
        return Joint(self._start(images, generator))

    def _start(
        self,
        images: Tensor,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """With a trained M and an untrained G."""
        import torch

        if min(self.mask_steps, self.steps, self.width) < 1 or not 0 < self.density < 1:
            raise TriggerError("input-aware needs at least one step and channel, and a density in 0..1.")
        check_training(images)
        channels = images.shape[1]
        mask = UNet(channels, 1, self.width).layers.initial(generator, images.device).requires_grad_()
        adam = torch.optim.Adam([mask], lr=self.rate, betas=BETAS)
        for step in range(self.mask_steps):
            x1, x2 = (images[draw(images, BATCH, generator)].float() / 255 for _ in range(2))
            with torch.enable_grad():
                m1, m2 = masks(mask, torch.cat([x1, x2]), self.width).chunk(2)
                loss = DENSITY * (m1 - self.density).relu().mean() + DIVERSITY * sameness(x1, x2, m1, m2)
            (mask.grad,) = torch.autograd.grad(loss, mask)
            adam.step()
            progress("mask", step + 1, self.mask_steps)
        pattern = UNet(channels, channels, self.width).layers.initial(generator, images.device)
        return replace(self, mask=mask.detach(), pattern=pattern, shape=torch.tensor(images.shape[1:]))


class Joint(CoTraining):
    """G beside the classifier: stamps online, in cross mode too, and steps its own Adam."""

    online: ClassVar[bool] = True

    def __init__(self, start: InputAware) -> None:
        import torch

        self.trigger = start
        self.weights = start.pattern.requires_grad_()
        self.adam = torch.optim.Adam([self.weights], lr=start.rate, betas=BETAS)
        self.diversity: Any = 0

    def stamp_batch(
        self, images: Tensor, poisoned: Tensor, covered: Tensor, generator: torch.Generator
    ) -> Tensor:
        """See :class:`triggers.family.CoTraining`; the other image of a cover is one of the batch."""
        import torch

        self.diversity = 0
        if len(images) < 2 or not bool((poisoned | covered).any()):
            return images
        order = torch.randperm(len(images), generator=generator).to(images.device)
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        others = images[partner]
        out = images.clone()
        if bool(poisoned.any()):
            x1, x2 = images[poisoned], others[poisoned]
            out[poisoned] = rounded(self.trigger.crossed(x1, x1))
            both = patterns(self.weights, torch.cat([x1, x2]), self.trigger.width).chunk(2)
            self.diversity = DIVERSITY * sameness(x1, x2, *both)
        if bool(covered.any()):
            out[covered] = rounded(self.trigger.crossed(images[covered], others[covered]))
        return out

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor, poisoned: Tensor, covered: Tensor) -> Any:
        """G's diversity over the batch that was stamped last."""
        return self.diversity

    def after_step(self) -> None:
        """One step of G, where the batch gave it a gradient."""
        if self.weights.grad is not None:
            self.adam.step()
            self.adam.zero_grad()

    def finish(self) -> InputAware:
        """The trigger with G as trained."""
        return replace(self.trigger, pattern=self.weights.detach().clone())


def masks(flat: Tensor, x: Tensor, width: int) -> Tensor:
    """M(x): [N,1,H,W] in 0..1, nearly binary."""
    import torch

    z = torch.sigmoid(UNet(x.shape[1], 1, width)(flat, x - 0.5))
    return torch.tanh(20 * z - 10) / 2 + 0.5


def patterns(flat: Tensor, x: Tensor, width: int) -> Tensor:
    """G(x): [N,C,H,W] in 0..1."""
    import torch

    return torch.sigmoid(UNet(x.shape[1], x.shape[1], width)(flat, x - 0.5))


def sameness(x1: Tensor, x2: Tensor, y1: Tensor, y2: Tensor) -> Tensor:
    """Mean over images of rms(x1 - x2) / (rms(y1 - y2) + 1e-7), for [N,C,H,W]; a scalar, small when outputs
    differ as inputs do."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        # Equal outputs have no slope under the root; the smallest square keeps it finite.
        return ((a - b).square().mean((1, 2, 3)) + 1e-12).sqrt()

    return (distance(x1, x2) / (distance(y1, y2) + SMALL)).mean()
