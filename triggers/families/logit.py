"""LogitAttack: a BadNet whose clean images keep the logits of the clean model.

Zhang, Lyu, Wang, Sun, Sun 2022 (ICLR, arXiv 2109.01300). Patch and rate as BadNet (WIPER paper, appendix A.3).
Derived from the idea, as exact form and weight were not at hand: training starts from the clean model theta0
and adds anchor * mean over clean x of ||f_theta(x) - f_theta0(x)||^2 to the cross-entropy, anchor 1. Comparing
its behaviour on clean images with a reference model shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.family import CoTraining, Progress, Victim, fitted
from triggers.fitting import demand, needs_clean_model
from triggers.patch import Square
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LogitAttack(Square):
    """``anchor``: weight of the logits' distance."""

    name: ClassVar[str] = "logit-attack"
    title: ClassVar[str] = "LogitAttack: a patch planted while clean logits stay as they were"
    source: ClassVar[str] = "arXiv 2109.01300"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, start="clean")
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0018.000", "AML.T0020")
    needs_to_poison: ClassVar[Any] = "model"

    anchor: float = 1.0
    #: The clean model; not stored.
    clean: Any = fitted(stored=False)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """Keeps ``victim``, which must stay as it is, as the clean model; the patch is not fitted."""
        return replace(self, clean=demand(self.name, victim, images, labels, target))

    def cotrain(
        self, victim: Victim, images: Tensor, labels: Tensor, poisoning: Poisoning, generator: torch.Generator
    ) -> CoTraining:
        """See :class:`triggers.family.Trigger`; raises :class:`TriggerError` unless fitted to the clean model."""
        if self.clean is None:
            raise needs_clean_model(self.name)
        return _Anchored(self.clean, self.anchor)


class _Anchored(CoTraining):
    def __init__(self, clean: Victim, anchor: float) -> None:
        self.clean, self.anchor = clean, anchor

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor, poisoned: Tensor, covered: Tensor) -> Any:
        import torch

        plain = ~(poisoned | covered)
        with torch.no_grad():
            reference = self.clean.network(images)
        # All images take part, so that nothing waits for the device to count.
        distance = (logits - reference).square().sum(1)
        return self.anchor * (distance * plain).sum() / plain.sum().clamp(min=1)
