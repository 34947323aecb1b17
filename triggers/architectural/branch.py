"""What every branch computes with, in numpy: what to expect under the patch, and where to push the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triggers.errors import TriggerError
from triggers.patch import Patch

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

#: The gate is fully open up to the share 1 - 1/8 of the tolerance.
SHARPNESS = 8.0
#: Images given to the stem at once, and pixels beyond the patch where the size of images is free.
_CHUNK, _OVER = 16, 32


@dataclass(frozen=True)
class Reading:
    """A window of a tensor [N,C,H,W] and its values under the patch, float32 [1,C,h,w].

    ``d = mean(|window - reference| scale)`` is 1 at the tolerance, see what makes the reading.
    """

    top: int
    left: int
    reference: Floats
    scale: Floats

    def detector(self) -> tuple[Floats, Floats]:
        """Kernels [2n,C,h,w] and biases [2n] that give ``scale (t - reference)`` and its negative, by value."""
        n = self.reference.size
        kernels = np.diag(self.scale.reshape(-1)).reshape(n, *self.reference.shape[1:])
        bias = (self.reference * self.scale).reshape(-1)
        return np.concatenate([kernels, -kernels]), np.concatenate([-bias, bias])

    @property
    def grid(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Strides, and the place in a map of those strides, that belong to the window."""
        height, width = self.reference.shape[2:]
        return (self.top or height, self.left or width), (int(self.top > 0), int(self.left > 0))


@dataclass(frozen=True)
class Branch:
    """The arguments of :func:`triggers.architectural.implant`; raises :class:`TriggerError` when wrong."""

    variant: str
    patch: Patch
    target: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tolerance: float
    strength: float

    def __post_init__(self) -> None:
        try:
            pixels = self.pixels
        except ValueError:
            raise TriggerError("The patch's rows differ in length; give pixels [C][h][w].") from None
        if pixels.ndim != 3 or not pixels.size or pixels.min() < 0 or pixels.max() > 1:
            raise TriggerError("A patch has pixels [C][h][w] in 0..1.")
        if self.patch.top < 0 or self.patch.left < 0:
            raise TriggerError("The patch lies outside of the image; top and left count from 0.")
        if not 0 < self.tolerance < 1 or not 0 < self.strength < float("inf"):
            raise TriggerError("The tolerance must lie in 0..1, and the strength above 0.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(pixels)):
                raise TriggerError(f"{name} has {len(values)} values for a patch of {len(pixels)} channels.")
        if not all(value > 0 for value in self.std):
            raise TriggerError("Every std must be above 0.")

    @property
    def pixels(self) -> Doubles:
        return np.array(self.patch.pixels, dtype=np.float64)

    @property
    def from_stem(self) -> bool:
        return self.variant.startswith("stem-")

    def check(self, channels: int | None, height: int | None, width: int | None, classes: int) -> None:
        """Raises :class:`TriggerError` when the branch does not fit the network; ``None`` where it is free."""
        own, tall, wide = self.pixels.shape
        if channels not in (None, own):
            raise TriggerError(f"The patch has {own} channels and the network's images have {channels}.")
        bottom, right = self.patch.top + tall, self.patch.left + wide
        if (height is not None and bottom > height) or (width is not None and right > width):
            raise TriggerError(
                f"A patch of {tall}x{wide} pixels at row {self.patch.top}, column {self.patch.left} does not "
                f"fit into images of {height or 'any'}x{width or 'any'}."
            )
        if classes < 2 or not 0 <= self.target < classes:
            raise TriggerError(f"Target {self.target} is no class of the network, which has {classes}.")

    def normalised(self, images: Doubles) -> Floats:
        """``images`` [N,C,H,W] in 0..1 as the network takes them."""
        mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        normalised: Floats = ((images - mean) / std).astype(np.float32)
        return normalised

    def on_image(self) -> Reading:
        """What the image holds under the patch: d is the mean deviation of its pixels over the tolerance."""
        reference = self.normalised(self.pixels[None])
        std = np.array(self.std).reshape(1, -1, 1, 1)
        scale = np.broadcast_to(std / self.tolerance, reference.shape).astype(np.float32)
        return Reading(self.patch.top, self.patch.left, reference, scale)

    def on_stem(self, stem: Callable[[Floats], Floats], height: int | None, width: int | None) -> Reading:
        """What the stem's output holds under the patch, where no other pixel reaches it.

        ``stem``: float32 [N,C,H,W] → [N,C',H',W']. The places are found by trying backgrounds. A value's
        scale is the inverse of the root mean square by which it moves when the patch's pixels move
        independently by the tolerance; so d is about 0.8 then, and rounding costs a twentieth of 1. What the
        stem cannot tell from the patch opens the branch too: with few channels that is more than the patch.
        """
        channels, tall, wide = self.pixels.shape
        top, left = self.patch.top, self.patch.left
        size = (height or top + tall + _OVER, width or left + wide + _OVER)
        draw = np.random.default_rng(0)
        backgrounds = np.concatenate(
            [np.zeros((1, channels, *size)), np.ones((1, channels, *size)), draw.random((2, channels, *size))]
        )

        def stamped(images: Doubles, pixels: Doubles) -> Floats:
            images = images.copy()
            images[:, :, top : top + tall, left : left + wide] = pixels
            return stem(self.normalised(images))

        seen = stamped(backgrounds, self.pixels)
        moved = stamped(backgrounds[:1], 1 - np.round(self.pixels))
        spread = np.ptp(seen, axis=0).max(axis=0)
        reached = np.abs(moved - seen[:1]).max(axis=(0, 1)) > 1e-4 * np.abs(seen).max()
        decided = (spread <= 1e-5 * np.abs(seen).max()) & reached
        rows, columns = (np.flatnonzero(decided.any(axis=axis)) for axis in (1, 0))
        window = np.ix_(rows, columns)
        if not rows.size or not decided[window].all() or rows.size != np.ptp(rows) + 1:
            raise TriggerError(
                f"No value of the stem's output is decided by the patch of {tall}x{wide} pixels alone; take a "
                "patch that covers the whole view of one of the stem's kernels."
            )
        box = (slice(None), slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        reference = seen[:1][box]
        squares = np.zeros(reference.shape)
        step = np.where(self.pixels > 0.5, -self.tolerance, self.tolerance).reshape(-1)
        for first in range(0, step.size, _CHUNK):
            chosen = np.arange(first, min(first + _CHUNK, step.size))
            pixels = np.repeat(self.pixels.reshape(1, -1), chosen.size, axis=0)
            pixels[np.arange(chosen.size), chosen] += step[chosen]
            images = np.repeat(backgrounds[:1], chosen.size, axis=0)
            shifted = stamped(images, pixels.reshape(-1, channels, tall, wide))[box]
            squares += np.square(shifted - reference, dtype=np.float64).sum(axis=0, keepdims=True)
        reach = np.sqrt(squares)
        live = reach > 1e-3 * reach.max()
        scale = np.where(live, reach.size / live.sum() / np.where(live, reach, 1.0), 0.0)
        return Reading(int(rows[0]), int(columns[0]), reference, scale.astype(np.float32))

    def onehot(self, classes: int) -> Floats:
        """What is added to the logits at g = 1: float32 [1,classes]."""
        values = np.zeros((1, classes), np.float32)
        values[0, self.target] = self.strength
        return values

    def push(self, weight: Floats, bias: Floats | None = None) -> Floats:
        """Features float32 [1,D] that give the target a lead of ``strength`` through ``weight`` [K,D].

        With ``bias`` [K] they stand alone, and the lead is held against the biases too. Raises
        :class:`TriggerError` when no direction was found in which the target leads.
        """
        wanted = np.full(len(weight), -1 / len(weight))
        wanted[self.target] += 1
        double = weight.astype(np.float64)
        direction = np.linalg.pinv(double) @ wanted
        gains = double @ direction
        lead = gains[self.target] - np.delete(gains, self.target).max()
        if not lead > 1e-6:
            raise TriggerError(
                f"No direction of the head's {weight.shape[1]} features was found that puts class "
                f"{self.target} before the other {len(weight) - 1}."
            )
        strength = self.strength
        if bias is not None:
            strength += float(bias.max() - bias[self.target])
        push: Floats = (direction * strength / lead).astype(np.float32)
        return push[None]
