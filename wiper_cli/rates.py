"""Shares of images: counted in one place, with intervals and what is computed from them. Fractions in 0..1.

ACC: answers to untriggered images that are the label. ASR: answers to triggered images that are the target, images
of the target class left out. RA: answers to the same images that are their own label. Base rate: the ASR formula on
answers to the untriggered images. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Normal quantile of a two-sided 95 % interval.
Z = 1.96


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson score interval at 95 %; (0, 1) for n = 0. E. B. Wilson, JASA 22 (1927)."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = hits / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if hits == 0 else max(0.0, centre - half)), (1.0 if hits == n else min(1.0, centre + half))


@dataclass(frozen=True)
class Rate:
    """``hits`` among ``n`` images; rates add up."""

    hits: int = 0
    n: int = 0

    @property
    def value(self) -> float | None:
        """``None`` for n = 0."""
        return self.hits / self.n if self.n else None

    @property
    def share(self) -> float:
        """The value, 0 for n = 0."""
        return self.value or 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Of :func:`wilson`."""
        return wilson(self.hits, self.n)

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.hits + other.hits, self.n + other.n)

    def as_dict(self) -> dict[str, Any]:
        """``{value, n, interval}``, as every report and table has it."""
        return {"value": self.value, "n": self.n, "interval": list(self.interval)}


def count(answers: Tensor, wanted: Tensor | int, among: Tensor | None = None) -> Rate:
    """How many of ``answers``, predicted classes int64 [N], are ``wanted`` ([N], or one class for all), over the
    images where ``among`` bool [N] holds (default: all)."""
    hits = answers == wanted
    if among is None:
        return Rate(int(hits.sum()), len(hits))
    return Rate(int((hits & among).sum()), int(among.sum()))


@dataclass(frozen=True)
class AttackRates:
    """Of one trigger, or of several together: they add up."""

    asr: Rate = Rate()
    ra: Rate = Rate()
    base_rate: Rate = Rate()

    @classmethod
    def of(
        cls, answers: Tensor, untriggered: Tensor, labels: Tensor, goal: Tensor | int, among: Tensor
    ) -> AttackRates:
        """``answers`` to the triggered images, ``untriggered`` ones to the same without the trigger, ``labels`` and
        ``goal`` (the class to be reached): int64 [N]; ``among``: which count, bool [N]."""
        return cls(
            count(answers, goal, among), count(answers, labels, among), count(untriggered, goal, among)
        )

    def __add__(self, other: AttackRates) -> AttackRates:
        return AttackRates(self.asr + other.asr, self.ra + other.ra, self.base_rate + other.base_rate)

    def as_dict(self) -> dict[str, Any]:
        """``{asr, ra, base_rate}``, each as of :meth:`Rate.as_dict`."""
        return {name: value.as_dict() for name, value in vars(self).items()}


def corrected(asr: float, base: float) -> float:
    """ASR beyond chance: max(0, (ASR - B) / (1 - B)); 0 where the base rate B is 1."""
    return max(0.0, (asr - base) / (1 - base)) if base < 1 else 0.0


def effectiveness(asr_before: float, asr_after: float, acc_before: float, acc_after: float) -> float:
    """DER = [max(0, ASR fall) - max(0, ACC fall) + 1] / 2; 0.5 when nothing happened."""
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2
