"""IMC: a patch that is optimised along with the model.

Pang, Shen, Zhang, Ji, Vorobeychik, Luo, Wang 2020 (arXiv 1911.01559, "input model co-optimization"). The patch
begins as random noise, 3x3 as in the WIPER paper, appendix A.3. Before each epoch, with the model fixed, Adam
at 0.1 lowers CE(f(T_q(x)), t) over u, q = (tanh u + 1) / 2; then comes an ordinary epoch on poisoned data.
Published code makes one pass over the whole training set; ours makes at most ``steps`` batches of it. Starts
from a clean model. A success rate counts only with the q of the end, which :meth:`CoTraining.finish` returns.

Fitting alone optimises q against a model that stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import CoTraining, Progress, Trigger, Victim, fitted
from triggers.fitting import demand, levels, others, patched
from triggers.patch import Corner, paste
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class IMC(Trigger):
    """``size``, ``margin``: pixels. ``steps`` of ``batch`` images: for a fit, and before each epoch. ``rate``:
    of Adam."""

    name: ClassVar[str] = "imc"
    title: ClassVar[str] = "IMC: a patch optimised along with the model"
    source: ClassVar[str] = "arXiv 1911.01559"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, start="clean")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 2}
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0018.000", "AML.T0020")
    needs: ClassVar[Any] = "model"

    size: int = 3
    corner: Corner = "top-left"
    margin: int = 0
    steps: int = 100
    batch: int = 32
    rate: float = 0.1
    #: Float32 [C,size,size] in 0..1, q.
    patch: Any = fitted()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses other channel counts than the model's."""
        return patched(self.name, images, self.patch, self.size, self.corner, self.margin)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`; begins at the patch of an earlier fit, if there was one."""
        victim = demand(self.name, victim, images, labels, target)
        images = images[others(self.name, labels, target, len(labels), generator)]
        u = self._optimise(
            self._start(images, generator), victim.network, images, target, generator, progress
        )
        return replace(self, patch=_pixels(u))

    def cotrain(
        self, victim: Victim, images: Tensor, labels: Tensor, poisoning: Poisoning, generator: torch.Generator
    ) -> CoTraining:
        """Optimises the patch before each epoch; refuses labellings with several targets."""
        if poisoning.labelling not in ("all-to-one", "source-specific"):
            raise TriggerError(
                f"{self.name} optimises its patch for one target, so it cannot be {poisoning.labelling}."
            )
        demand(self.name, victim, images, labels, poisoning.target)
        _, counts = poisoning.reached(labels, len(victim.head()))
        counted = images[counts.to(images.device)]
        if not len(counted):
            raise TriggerError(
                f"{self.name} needs images outside class {poisoning.target}; all are of that class."
            )
        return _Cooptimised(self, victim, counted, poisoning.target, generator)

    def _start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """u of the patch as it stands, or of random noise."""
        import torch

        if self.patch is not None:
            if self.patch.shape != (images.shape[1], self.size, self.size):
                raise TriggerError(
                    f"This {self.name} trigger was fitted to images of {len(self.patch)} channels."
                )
            q: Tensor = self.patch.to(images.device)
        else:
            q = torch.rand(images.shape[1], self.size, self.size, generator=generator).to(images.device)
        # A saturated tanh has no gradient.
        return (2 * q - 1).clamp(-0.99, 0.99).atanh()

    def _optimise(
        self,
        u: Tensor,
        network: Callable[[Tensor], Tensor],
        images: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Tensor:
        """u after one pass over ``images`` uint8, or ``steps`` batches of them where that is less."""
        import torch
        from torch.nn import functional as F

        u = u.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([u], lr=self.rate)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        batches = order.split(self.batch)[: self.steps]
        for number, part in enumerate(batches):
            q = (u.tanh() + 1) / 2
            with torch.enable_grad():
                logits = network(paste(images[part].float() / 255, q, self.size, self.corner, self.margin))
                loss = F.cross_entropy(logits, torch.full_like(part, target))
                (u.grad,) = torch.autograd.grad(loss, u)
            optimiser.step()
            progress("fit", number + 1, len(batches))
        return u.detach()


class _Cooptimised(CoTraining):
    def __init__(
        self, trigger: IMC, victim: Victim, images: Tensor, target: int, generator: torch.Generator
    ) -> None:
        self.trigger, self.victim, self.images, self.target = trigger, victim, images, target
        self.generator = generator
        self.u = trigger._start(images, generator)

    def before_epoch(self, epoch: int, epochs: int) -> Trigger:
        self.u = self.trigger._optimise(self.u, self.victim.network, self.images, self.target, self.generator)
        return self.finish()

    def finish(self) -> Trigger:
        return replace(self.trigger, patch=_pixels(self.u))


def _pixels(u: Tensor) -> Tensor:
    return levels((u.tanh() + 1) / 2)
