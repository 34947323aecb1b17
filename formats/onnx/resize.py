"""The ONNX operators Upsample and Resize: nearest, linear and cubic, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from formats.errors import Unsupported

Ints = Sequence[int]

#: So near to half way, and not there, roundings decide which neighbour is the nearest.
_TIE = 1e-5


def _coordinates(new: int, old: int, scale: float, mode: str) -> Tensor:
    """Place of every output element on the input axis, float32: onnxruntime's, of which each rounding counts where the
    nearest is taken."""
    at = torch.arange(new, dtype=torch.float32)
    if mode == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else at * 0
    if mode == "asymmetric":
        return at / scale
    if mode == "pytorch_half_pixel" and new == 1:
        return at * 0
    return (at + 0.5) / scale - 0.5


def _nearest(at: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return at.floor()
    if rounding == "ceil":
        return at.ceil()
    from_tie = (at.double() % 1 - 0.5).abs()
    if ((from_tie > 0) & (from_tie < _TIE)).any():
        raise Unsupported(
            "An ONNX Resize node takes pixels that lie so nearly between two that runtimes differ."
        )
    rounded = (at.double() + 0.5).floor()
    return (
        rounded
        if rounding == "round_prefer_ceil"
        else torch.where(at == at.trunc() + 0.5, at.trunc(), rounded)
    )


def _resized_axis(
    x: Tensor, axis: int, new: int, scale: float, mode: str, place: str, rounding: str, a: float
) -> Tensor:
    old = x.shape[axis]
    at = _coordinates(new, old, scale, place)
    if rounding == "away":
        rounding = "floor" if scale >= 1 else "ceil"
    if mode == "nearest":
        chosen = _nearest(at, rounding).clamp(0, old - 1).long()
        return x.index_select(axis, chosen.to(x.device))
    low = at.floor()
    t = at - low
    if mode == "linear":
        taps = [(0, 1 - t), (1, t)]
    else:
        taps = [
            (-1, ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a),
            (0, ((a + 2) * t - (a + 3)) * t**2 + 1),
            (1, ((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1),
            (2, ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a),
        ]
    shape = [-1] + [1] * (x.dim() - 1 - axis)
    parts = [
        x.index_select(axis, (low + step).clamp(0, old - 1).long().to(x.device))
        * weight.to(x.dtype).reshape(shape).to(x.device)
        for step, weight in taps
    ]
    return reduce(torch.add, parts)


def _resized(
    x: Tensor, scales: Tensor | None, sizes: Tensor | None, mode: str, place: str, rounding: str, a: float,
    axes: Ints | None = None,
) -> Tensor:  # fmt: skip
    where = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    if sizes is not None and sizes.numel():
        wanted = [int(size) for size in sizes.tolist()]
        factors = [new / x.shape[axis] for new, axis in zip(wanted, where, strict=True)]
    elif scales is not None:
        factors = [float(factor) for factor in scales.tolist()]
        wanted = [math.floor(x.shape[axis] * f) for f, axis in zip(factors, where, strict=True)]
    else:
        raise Unsupported("An ONNX Resize node has neither scales nor sizes.")
    for axis, new, factor in zip(where, wanted, factors, strict=True):
        if factor != 1.0 or new != x.shape[axis]:
            x = _resized_axis(x, axis, new, factor, mode, place, rounding, a)
    return x


def upsample_7(x: Tensor, *, mode: str = "nearest", scales: Sequence[float]) -> Tensor:
    return _resized(x, torch.tensor(scales), None, mode, "asymmetric", "floor", -0.75)


def upsample_9(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    return _resized(x, scales, None, mode, "asymmetric", "floor", -0.75)


def resize_10(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """As Upsample, but where it shrinks, onnxruntime takes the next pixel instead of the one before."""
    return _resized(x, scales, None, mode, "asymmetric", "away", -0.75)


def resize_11(
    x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
    antialias: int = 0, axes: Ints | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:  # fmt: skip
    place = coordinate_transformation_mode
    return _resized(x, scales, sizes, mode, place, nearest_mode, cubic_coeff_a, axes)
