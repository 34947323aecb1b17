"""Shares of images, intervals and what is computed from them: fractions in 0..1. Standard library only."""

from __future__ import annotations

import math
from typing import Any

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


def rate(hits: int, n: int) -> dict[str, Any]:
    """``{value, n, interval}``; value ``None`` for n = 0."""
    return {"value": hits / n if n else None, "n": n, "interval": list(wilson(hits, n))}


def corrected(asr: float, base: float) -> float:
    """ASR beyond chance: max(0, (ASR - B) / (1 - B)); 0 where the base rate B is 1."""
    return max(0.0, (asr - base) / (1 - base)) if base < 1 else 0.0


def effectiveness(asr_before: float, asr_after: float, acc_before: float, acc_after: float) -> float:
    """DER = [max(0, ASR fall) - max(0, ACC fall) + 1] / 2; 0.5 when nothing happened."""
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2
