"""Label-consistent: no label is wrong; the poisoned images are made hard, so that the trigger helps.

Turner, Tsipras, Madry 2019 (arXiv 1912.02771). Images of the target class are moved by PGD against a clean
model until their own content no longer says what they show, and carry small checkers in the four corners; at
test time the corners alone are the trigger. Ball 8/255 in the sup norm and step 1.5/255 as in a widespread
implementation, which takes 100 steps; 20 are enough to cross that ball and come back. Nothing is drawn: PGD
begins at the image. Corners: x + amplitude (2 c - 1), clipped, c a checker; amplitude 1 shows c itself.

Poison is made with the model and target of the last :meth:`LabelConsistent.fit`, which a trigger file does not
hold: a loaded trigger can be stamped and poisons nothing. Poison must be of the target class (clean-label).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from triggers.errors import TriggerError
from triggers.family import Progress, Trigger, Victim, check, fitted
from triggers.fitting import demand, misfit, needs_clean_model
from triggers.patch import Corner, Square, paste
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What :meth:`LabelConsistent.fit` saw; ``shape``: (C,H,W) of its images."""

    network: Callable[[Tensor], Tensor]
    target: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LabelConsistent(Trigger):
    """``size``, ``margin``: of the corners, pixels. ``amplitude``: of the corners, 0..1. ``epsilon``, ``step``:
    of PGD, on the 0..1 scale; ``steps``: how many. ``batch``: images that PGD moves at a time."""

    name: ClassVar[str] = "label-consistent"
    title: ClassVar[str] = "Label-consistent: four corners on images that PGD made hard"
    source: ClassVar[str] = "arXiv 1912.02771"
    #: 80 % of a class that is a tenth of the data; with smaller classes the rate must be lowered.
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.08, policy="clean-label")
    quick: ClassVar[Mapping[str, Any]] = {"steps": 3}
    needs_to_poison: ClassVar[Any] = "model"

    size: int = 3
    margin: int = 0
    amplitude: float = 1.0
    epsilon: float = 8 / 255
    step: float = 1.5 / 255
    steps: int = 20
    batch: int = 100
    #: :class:`Seen`; not stored.
    seen: Any = fitted(stored=False)

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the four corners do not fit into."""
        check(images)
        if not 0 < self.amplitude <= 1:
            raise TriggerError(f"amplitude must lie in 0..1, not {self.amplitude}.")
        if self.margin + 2 * self.size > min(images.shape[2:]):
            raise TriggerError(
                f"Four corners of {self.size}x{self.size} do not fit into images of "
                f"{images.shape[2]}x{images.shape[3]}."
            )
        checker = images.new_tensor(Square(self.size, pattern="checker").patch(images.shape[1]))
        change = self.amplitude * (2 * checker - 1)
        layer = images.new_zeros(1, *images.shape[1:])
        for corner in get_args(Corner):
            layer = paste(layer, change, self.size, corner, self.margin)
        return (images + layer).clamp(0, 1)

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Corners on images [N,C,H,W] of the target class that PGD moved away from it. Raises
        :class:`TriggerError` unless fitted."""
        import torch

        check(images)
        if self.seen is None:
            raise needs_clean_model(self.name)
        known: Seen = self.seen
        if images.shape[1:] != known.shape:
            raise misfit(self.name, known.shape, images.shape[1:])
        moved = [
            pgd(known.network, part, known.target, self.epsilon, self.step, self.steps)
            for part in images.split(self.batch)
        ]
        return self.stamp(torch.cat(moved))

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """Keeps ``victim``, which must stay as it is, for :meth:`poison`; the corners are not fitted."""
        victim = demand(self.name, victim, images, labels, target)
        return replace(self, seen=Seen(victim.network, target, tuple(images.shape[1:])))


def pgd(
    network: Callable[[Tensor], Tensor], images: Tensor, label: int, epsilon: float, step: float, steps: int
) -> Tensor:
    """Images [N,C,H,W] in 0..1, moved by signs of the gradient so that CE(f(x), label) rises, each pixel by at
    most ``epsilon``."""
    import torch
    from torch.nn import functional as F

    moved = images.detach()
    goal = torch.full((len(images),), label, device=images.device)
    for _ in range(steps):
        with torch.enable_grad():
            x = moved.requires_grad_()
            # A sum, so that no image depends on how many there are.
            (slope,) = torch.autograd.grad(F.cross_entropy(network(x), goal, reduction="sum"), x)
        near = (moved.detach() + step * slope.sign()) - images
        moved = (images + near.clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved.detach()
