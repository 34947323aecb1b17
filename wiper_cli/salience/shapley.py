"""Neuron Shapley: a unit's share of the clean accuracy, averaged over all orders of removing units.

Source: Ghorbani and Zou 2020 (arXiv 2002.09815). With V(S) the accuracy when only the units S are left and all
others stand at their baseline,

    phi_j = E over permutations of V(S with j) - V(S),      sum_j phi_j = V(all) - V(none)

Permutations are sampled and truncated once accuracy has gone; a bandit goes on only with units whose empirical
Bernstein interval (arXiv 0907.3740) holds the threshold. Theirs tells the k highest units from the rest; here
it is the k *lowest*. They draw 128 images anew for each permutation, here V is over all images given.

Behind the features the network is linear, so on cached features removing a unit is a rank-1 change of the
logits (:class:`CachedGame`). :class:`NetworkGame` runs the whole network for each V, as the source does where
convolutions are removed: the same numbers at another price, kept to measure that price.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wiper_cli.progress import Progress, silent
from wiper_cli.salience.settings import Baseline, Shapley

#: Numbers (classes x permutations x images) that one walk keeps; a few fit a processor's cache.
KEPT = 400_000


class Game(Protocol):
    """Several walks at once; in each, units leave the network one by one."""

    units: int
    classes: int
    device: torch.device
    #: How many walks at once are worth while.
    walks: int

    def restart(self, walks: int) -> Tensor:
        """All units are back in ``walks`` walks; V(all) of each, float64 [walks]."""
        ...

    def remove(self, units: Tensor) -> None:
        """One more unit leaves each walk: int64 [walks]."""
        ...

    def value(self, rows: Tensor) -> Tensor:
        """V as it stands, float64 [walks]; arbitrary outside of ``rows``, bool [walks]."""
        ...


def baseline_of(features: Tensor, baseline: Baseline) -> Tensor:
    """What removed units are set to: features float64 [N,D] → [D]."""
    return features.mean(dim=0) if baseline == "mean" else torch.zeros_like(features[0])


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [N,K] → [K,N] with the label's own at -inf; a class must beat the others, a tie does not count."""
    others = logits.T.clone()
    others[labels, torch.arange(len(labels), device=labels.device)] = -math.inf
    return others


class CachedGame:
    """On features [N,D], logits [N,K], labels int64 [N], weight [K,D]; float64, images last.

    A permutation costs D K N multiplications: it is the metric to leave out for a thousand classes.
    """

    def __init__(
        self, features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, baseline: Baseline
    ) -> None:
        features, logits, self._weight = features.double(), logits.double(), weight.double()
        self.classes, self.units = weight.shape
        self.device = features.device
        self._shift = (baseline_of(features, baseline) - features).T.contiguous()
        self._own_shift = self._shift * self._weight.T[:, labels]
        self._full_own = logits.gather(1, labels[:, None])[:, 0]
        self._full_others = without(logits, labels)
        self.walks = max(1, KEPT // logits.numel())
        self.restart(1)

    def restart(self, walks: int) -> Tensor:
        self._own = self._full_own.repeat(walks, 1)
        self._others = self._full_others[:, None].repeat(1, walks, 1)
        return self.value(torch.ones(walks, dtype=torch.bool))

    def remove(self, units: Tensor) -> None:
        self._own += self._own_shift[units]
        self._others.addcmul_(self._weight[:, units, None], self._shift[units][None])

    def value(self, rows: Tensor) -> Tensor:
        return (self._own > self._others.amax(dim=0)).double().mean(dim=1)


class NetworkGame:
    """``evaluate``: images → features [N,D], logits [N,K]; it runs anew over ``images`` for each V."""

    walks = 1

    def __init__(
        self,
        evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
        images: Tensor,
        labels: Tensor,
        weight: Tensor,
        baseline: Baseline,
    ) -> None:
        self._evaluate, self._images, self._labels = evaluate, images, labels
        self._weight, self.device = weight.double(), weight.device
        self.classes, self.units = weight.shape
        self._baseline = baseline_of(evaluate(images)[0].double(), baseline)
        self._gone = torch.zeros(1, self.units, dtype=torch.bool, device=self.device)
        self._full = self._accuracy(self._gone[0])

    def restart(self, walks: int) -> Tensor:
        self._gone = self._gone.new_zeros(walks, self.units)
        return self._full.repeat(walks)

    def remove(self, units: Tensor) -> None:
        self._gone[torch.arange(len(units), device=self.device), units] = True

    def value(self, rows: Tensor) -> Tensor:
        found = torch.zeros(len(self._gone), dtype=torch.float64, device=self.device)
        for row in rows.nonzero()[:, 0].tolist():
            found[row] = self._accuracy(self._gone[row])
        return found

    def _accuracy(self, gone: Tensor) -> Tensor:
        features, logits = (x.double() for x in self._evaluate(self._images))
        logits = logits + ((self._baseline - features) * gone) @ self._weight.T
        own = logits.gather(1, self._labels[:, None])[:, 0]
        return (own > without(logits, self._labels).amax(dim=0)).double().mean()


def walk(game: Game, order: Tensor, watched: Tensor, floor: float, patience: int) -> tuple[Tensor, int]:
    """Contributions of the ``watched`` units (bool [D]) along permutations (int64 [P,D]; the first unit leaves
    first): float64 [P,D], NaN for the others, 0 behind a truncation; and how many V were needed for them.

    A permutation is truncated once V was at most ``floor`` more than ``patience`` times in a row.
    """
    walks, units = order.shape
    seen = watched[order]
    needed = seen.clone()
    needed[:, :-1] |= seen[:, 1:]
    found = torch.where(watched, 0.0, math.nan).double().repeat(walks, 1)
    before, evaluations = game.restart(walks), 0
    alive = torch.ones(walks, dtype=torch.bool, device=order.device)
    low = torch.zeros(walks, dtype=torch.int64, device=order.device)
    for step in range(units):
        game.remove(order[:, step])
        rows = needed[:, step] & alive
        if not rows.any():
            continue
        after = game.value(rows)
        evaluations += int(rows.sum())
        here = (seen[:, step] & alive).nonzero()[:, 0]
        found[here, order[here, step]] = (before - after)[here]
        before = after
        low = torch.where(rows, torch.where(after <= floor, low + 1, 0), low)
        alive &= low <= patience
        if not alive.any():
            break
    return found, evaluations


@dataclass(frozen=True)
class Estimate:
    """Float64 [D]: ``values``, ``half_width`` of their intervals; int64 [D]: ``samples``. ``evaluations``: V
    that were needed. ``undecided``: units whose interval still holds the threshold."""

    values: Tensor
    half_width: Tensor
    samples: Tensor
    permutations: int
    evaluations: int
    undecided: int


def half_width(count: Tensor, total: Tensor, squares: Tensor, settings: Shapley) -> Tensor:
    """Empirical Bernstein: sqrt(2 v ln(2/d) / n) + 7 R ln(2/d) / (3 (n-1)), from n, sum and sum of squares;
    infinite below two samples."""
    variance = ((squares - total.square() / count) / (count - 1)).clamp(min=0)
    log = math.log(2 / settings.delta)
    width = (2 * variance * log / count).sqrt() + 7 * settings.span * log / (3 * (count - 1))
    return torch.where(count > 1, width, math.inf)


def estimate(game: Game, settings: Shapley, progress: Progress = silent) -> Estimate:
    """Samples until the lowest units are told from the rest, or ``permutations`` are used up."""
    generator = torch.Generator().manual_seed(settings.seed)
    lowest = round(settings.lowest * game.units)
    watched = torch.ones(game.units, dtype=torch.bool, device=game.device)
    count, total, squares = torch.zeros(3, game.units, dtype=torch.float64, device=game.device)
    drawn = evaluations = 0
    mean = width = total
    while drawn < settings.permutations and watched.any():
        batch = min(settings.batch, settings.permutations - drawn)
        orders = torch.stack([torch.randperm(game.units, generator=generator) for _ in range(batch)])
        for order in orders.to(game.device).split(game.walks):
            found, needed = walk(game, order, watched, 1 / game.classes + settings.floor, settings.patience)
            count += len(order) * watched
            total += found.nan_to_num().sum(dim=0)
            squares += found.nan_to_num().square().sum(dim=0)
            evaluations += needed
        drawn += batch
        mean, width = total / count, half_width(count, total, squares, settings)
        if 0 < lowest < game.units:
            threshold = mean.sort().values[lowest - 1 : lowest + 1].mean()
            watched = (mean - width <= threshold) & (threshold <= mean + width)
        progress("shapley", drawn, settings.permutations)
    return Estimate(mean, width, count.long(), drawn, evaluations, int(watched.sum()))


def shapley(features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor, settings: Shapley) -> Tensor:
    """phi of the head's units: features [N,D], logits [N,K], labels int64 [N], weight [K,D] → float64 [D]."""
    return estimate(CachedGame(features, logits, labels, weight, settings.baseline), settings).values
