"""Salience hiding: a BadNet that works through the very neurons this program spares.

Ours, against the defence of this program, which distrusts inputs j of the head whose benign salience
BS_j = -E[h_j dL/dh_j] = -sum_c G_cj W_cj on clean data is low. S: the share of units with the highest BS of the
clean model theta0. Training starts from theta0 and adds to the cross-entropy, per batch,

    elsewhere * sum_{j not in S} mean_x (h_j(T(x)) - h_j(x))^2  +  salience * sum_{j in S} relu(c_j - BS_j)

over the clean images x of the batch, c_j = floor BS_j(theta0): the trigger may move S alone, and S has to stay
salient. BS_j is the batch's own, without momentum, and W is held fixed in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import CoTraining, Progress, Victim, fitted
from triggers.fitting import demand, needs_clean_model
from triggers.patch import Square
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class SalienceHiding(Square):
    """``share``: of the head's inputs that carry the trigger. ``elsewhere``, ``salience``: weights of the two
    terms. ``floor``: the salience S has to keep, as a multiple of the clean model's. ``sample``: images that BS
    is measured on, at most. ``pairs``: clean images of a batch that are also seen stamped, at most."""

    name: ClassVar[str] = "salience-hiding"
    title: ClassVar[str] = "Salience hiding: a patch that moves only the most salient neurons"
    source: ClassVar[str] = "this project"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, start="clean")
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0018.000", "AML.T0020")
    needs_to_poison: ClassVar[Any] = "model"

    share: float = 0.1
    elsewhere: float = 1.0
    salience: float = 1.0
    floor: float = 1.0
    sample: int = 2000
    pairs: int = 64
    #: S: int64 [k], most salient first.
    units: Any = fitted()
    #: BS of S in the clean model, float32 [k].
    level: Any = fitted()

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """Fixes S from the clean model on ``images`` with their true ``labels``; the patch is not fitted."""
        import torch

        if not 0 < self.share < 1:
            raise TriggerError(f"share must lie between 0 and 1, not {self.share}.")
        victim = demand(self.name, victim, images, labels, target)
        places = torch.randperm(len(images), generator=generator).to(images.device)[: self.sample]
        head = victim.head()
        total = torch.zeros(head.shape[1], dtype=torch.float64, device=images.device)
        with torch.no_grad():
            for part in places.split(250):
                features, logits = victim.features(images[part].float() / 255)
                own = benign_salience(features, logits, labels.to(images.device)[part], head)
                total += own.double() * len(part)
        found = (total / len(places)).topk(max(1, round(self.share * len(total))))
        return replace(self, units=found.indices, level=found.values.float())

    def cotrain(
        self, victim: Victim, images: Tensor, labels: Tensor, poisoning: Poisoning, generator: torch.Generator
    ) -> CoTraining:
        """See :class:`triggers.family.Trigger`; raises :class:`TriggerError` unless fitted to the clean model."""
        if self.units is None:
            raise needs_clean_model(self.name)
        return _Hidden(self, victim)


def benign_salience(features: Tensor, logits: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """``features`` [N,D], ``logits`` [N,K], ``labels`` int64 [N], ``head`` W [K,D] → [D]:
    BS_j = -sum_c G_cj W_cj, G = (p - onehot(y))^T h / N the gradient of the mean cross-entropy by W."""
    from torch.nn import functional as F

    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    return -((error.T @ features) * head).sum(0) / len(features)


class _Hidden(CoTraining):
    def __init__(self, trigger: SalienceHiding, victim: Victim) -> None:
        self.trigger, self.victim = trigger, victim

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor, poisoned: Tensor, covered: Tensor) -> Any:
        import torch

        own = self.trigger
        places = (~(poisoned | covered)).nonzero().flatten()[: own.pairs]
        if not len(places):
            return 0
        clean = images[places]
        # One pass, so that batch norm treats both halves alike.
        features, found = self.victim.features(torch.cat([clean, own.stamp(clean)]))
        before, after = features.split(len(places))
        units = own.units.to(before.device)
        others = torch.ones(before.shape[1], dtype=torch.bool, device=before.device)
        others[units] = False
        moved = (after - before).square().mean(0)
        salience = benign_salience(before, found[: len(places)], labels[places], self.victim.head())[units]
        lost = (own.floor * own.level.to(salience) - salience).relu().sum()
        return own.elsewhere * (moved * others).sum() + own.salience * lost
