"""BS, MBS, both AM and their rank stability in one pass over the clean images, without keeping features.

Needs memory for two K x D matrices and batches, whatever the number of images. Cost: the forward pass, and
one float64 product of K x N x D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.progress import Progress, silent
from wiper_cli.salience.am import weigh
from wiper_cli.salience.bs import Momentum, gradient_sum, require_linear, unit_salience
from wiper_cli.salience.settings import MomentumSalience


@dataclass(frozen=True)
class Stability:
    """Agreement of one metric between two halves of the images: Spearman's rank correlation (0: none, 1: the
    same order), and the share of the lowest half of the units that both halves name (chance: 0.5)."""

    rank_correlation: float
    lowest_half_overlap: float


@dataclass(frozen=True)
class Salience:
    """Per unit of the head, float64 [D] on the CPU: ``bs`` (Eq. 2), ``mbs`` (Eq. 3, one step a batch: the
    only one that depends on the batches), ``am`` = E|h_j|, ``weighted_am`` = E sum_c |W_cj h_j|.

    ``correct``: images whose top class is their label. ``stability``: by metric, ``bs`` and ``am``.
    """

    bs: Tensor
    mbs: Tensor
    am: Tensor
    weighted_am: Tensor
    stability: dict[str, Stability]
    images: int
    correct: int


class SaliencePass:
    """Accumulates one pass in float64 on the device of ``weight``, the head's [K,D]; ``eta``: of MBS."""

    def __init__(self, weight: Tensor, eta: float = MomentumSalience.eta) -> None:
        self.weight = weight.detach().double()
        self.images = 0
        self._mbs = Momentum(eta)
        # Images alternate between two halves, by their place in the whole pass and not in the batch.
        self._gradient = self.weight.new_zeros(2, *self.weight.shape)
        self._magnitude = self.weight.new_zeros(2, self.weight.shape[1])
        self._correct = torch.zeros((), dtype=torch.int64, device=weight.device)

    @torch.no_grad()
    def add(self, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: features [N,D], logits [N,K], labels int64 [N], all on the weight's device."""
        batch_gradient = torch.zeros_like(self.weight)
        for half in (0, 1):
            mine = slice((half - self.images) % 2, None, 2)
            gradient = gradient_sum(features[mine], logits[mine], labels[mine])
            self._gradient[half] += gradient
            self._magnitude[half] += features[mine].double().abs().sum(dim=0)
            batch_gradient += gradient
        self._mbs.update(unit_salience(batch_gradient / len(labels), self.weight))
        self._correct += (logits.argmax(dim=1) == labels).sum()
        self.images += len(labels)

    def result(self) -> Salience:
        """What the pass found; raises ``ValueError`` below two images."""
        if self.images < 2 or self._mbs.value is None:
            raise ValueError("salience needs at least two images")
        counts = (self.images - self.images // 2, self.images // 2)
        halves = [unit_salience(g / n, self.weight) for g, n in zip(self._gradient, counts, strict=True)]
        magnitude = self._magnitude.sum(dim=0) / self.images
        return Salience(
            bs=unit_salience(self._gradient.sum(dim=0) / self.images, self.weight).cpu(),
            mbs=self._mbs.value.cpu(),
            am=magnitude.cpu(),
            weighted_am=weigh(magnitude, self.weight).cpu(),
            stability={"bs": stability(*halves), "am": stability(*self._magnitude)},
            images=self.images,
            correct=int(self._correct),
        )


def measure(
    classifier: Classifier,
    part: Part,
    eta: float = MomentumSalience.eta,
    batch: int = 256,
    progress: Progress = silent,
) -> Salience:
    """One forward pass of ``classifier`` over ``part``; raises :class:`Problem` if the head is not linear."""
    require_linear(classifier.model.head)
    total = SaliencePass(classifier.head()[0], eta)
    for start in range(0, len(part), batch):
        features, logits = classifier.features(part.images[start : start + batch], batch)
        weight = total.weight
        total.add(
            features.to(weight.device),
            logits.to(weight.device),
            part.labels[start : start + batch].to(weight.device),
        )
        progress("salience", min(start + batch, len(part)), len(part))
    return total.result()


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0, ties sharing their mean rank: [D] → float64 [D]."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    middle: Tensor = last.double() - (counts.double() + 1) / 2
    return middle[inverse]


def lowest(values: Tensor, count: int) -> Tensor:
    """Which units are the ``count`` of the smallest ``values`` [D], the first of equal ones: bool [D] on the CPU."""
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.argsort(stable=True)[:count].cpu()] = True
    return chosen


def correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two measurements [D] of the same units; 0 where one is constant."""
    a, b = (ranks(x) - (len(x) - 1) / 2 for x in (first, second))
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def stability(first: Tensor, second: Tensor) -> Stability:
    """Agreement of two measurements [D] of the same units; a constant one has rank correlation 0."""
    count = max(1, len(first) // 2)
    lowest = [set(x.topk(count, largest=False).indices.tolist()) for x in (first, second)]
    return Stability(correlation(first, second), len(lowest[0] & lowest[1]) / count)
