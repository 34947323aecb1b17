"""BppAttack: fewer grey levels.

Wang, Zhai, Ma 2022 (arXiv 2205.13383). T(x) = round(x (k - 1)) / (k - 1) with k = 8 levels per channel,
optionally with Floyd-Steinberg dithering (left out by default, as in the field's benchmark). Cover images
("negative samples") are x + T(x') - x' with their true label, x' another image: its rounding errors are no
sign of the target. Here x' is the image itself, moved cyclically by a drawn distance, so that an image's cover
does not depend on which others are at hand. T(T(x)) = T(x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from triggers.draws import integers, window
from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Bpp(Trigger):
    """``levels``: k, 2..128. ``dither``: pass rounding errors on to the neighbours."""

    name: ClassVar[str] = "bpp"
    title: ClassVar[str] = "BppAttack: fewer grey levels"
    source: ClassVar[str] = "arXiv 2205.13383"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1, cover=0.1, fresh=True)
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020", "AML.T0018.000")

    levels: int = 8
    dither: bool = False

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; fits every image."""
        check(images)
        if not 2 <= self.levels <= 128:
            raise TriggerError(f"levels must lie in 2..128, not {self.levels}.")
        return dithered(images, self.levels) if self.dither else rounded(images, self.levels)

    def cover(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A negative sample: the rounding errors of the moved image."""
        check(images)
        height, width = images.shape[2:]
        drawn = integers(images, (max(height - 1, 1), width), generator)
        other = window(images, drawn[:, 0] + 1, drawn[:, 1], height, width)
        return (images + (self.stamp(other) - other)).clamp(0, 1)

    def variant(self, number: int) -> Self:
        """One level fewer for each."""
        if self.levels - number < 2:
            raise TriggerError(f"Fewer than 2 levels would be left for trigger {number} of {self.name}.")
        return replace(self, levels=self.levels - number)


def rounded(images: Tensor, levels: int) -> Tensor:
    """The nearest of ``levels`` equally spaced values in 0..1."""
    return (images.clamp(0, 1) * (levels - 1)).round() / (levels - 1)


def dithered(images: Tensor, levels: int) -> Tensor:
    """Floyd-Steinberg: left to right, top to bottom; 7/16 of the error to the right, 3/16, 5/16 and 1/16 to
    below left, below and below right; what would leave the image is dropped.

    Pixels of equal x + 2 y do not depend on one another, so W + 2 H - 2 steps serve the whole batch.
    """
    import torch

    n, channels, height, width = images.shape
    y = torch.arange(height, device=images.device)[:, None].expand(height, width)
    time = torch.arange(width, device=images.device) + 2 * y
    steps = width + 2 * height - 2
    # A border of one row below and three steps takes the errors that no pixel reads.
    skewed = images.new_zeros(steps + 3, height + 1, n * channels)
    skewed[time, y] = images.reshape(n * channels, height, width).permute(1, 2, 0)
    inside = images.new_zeros(steps, height, 1)
    inside[time, y] = 1
    for step in range(steps):
        new = rounded(skewed[step, :-1], levels)
        error = (skewed[step, :-1] - new) * inside[step]
        skewed[step, :-1] = new
        skewed[step + 1, :-1] += error * (7 / 16)
        skewed[step + 1, 1:] += error * (3 / 16)
        skewed[step + 2, 1:] += error * (5 / 16)
        skewed[step + 3, 1:] += error * (1 / 16)
    return skewed[time, y].permute(2, 0, 1).reshape(images.shape).contiguous()
