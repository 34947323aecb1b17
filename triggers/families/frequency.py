"""CTRL and FTrojan: two frequencies added to the colour.

Wang et al. 2021 (FTrojan, arXiv 2111.10991) and Li et al. 2022 (CTRL, arXiv 2210.07346). A magnitude is added to
coefficients (15,15) and (31,31) of the orthonormal 2-D DCT of both chroma channels, in windows of 32x32; the
magnitude counts on the 0..255 scale. CTRL: 100, clean-label 5 %; FTrojan: 30, dirty-label 10 %. The colour
transform is full-range BT.601 Y Cb Cr in both, without rounding in between, and what leaves 0..1 is clipped
once. Published versions mix colour transforms and round midway; these figures are not comparable to the level.

Transform and DCT are linear, so all this is the addition of one fixed picture, which is what is computed.
Windows are laid from the top left, as many as fit whole; what is left over stays untouched. An image smaller
than the window is one window of its own size, its frequencies in proportion. Images that have not three
channels have no chroma: every channel is treated as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: What a unit of Cb and of Cr together adds to red, green and blue (inverse BT.601: luma weights .299, .114).
CHROMA = (
    2 * (1 - 0.299),
    -2 * (0.299 * (1 - 0.299) + 0.114 * (1 - 0.114)) / (1 - 0.299 - 0.114),
    2 * (1 - 0.114),
)


@dataclass(frozen=True)
class FTrojan(Trigger):
    """``magnitude``: of a coefficient, on the 0..255 scale. ``frequencies``: f for coefficient (f,f).
    ``window``: pixels."""

    name: ClassVar[str] = "ftrojan"
    title: ClassVar[str] = "FTrojan: two frequencies in the colour"
    source: ClassVar[str] = "arXiv 2111.10991"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1)

    magnitude: float = 30.0
    frequencies: tuple[int, ...] = (15, 31)
    window: int = 32

    def picture(self, height: int, width: int) -> Tensor:
        """What is added to a chroma channel of an image: float64 [H,W] on the 0..1 scale."""
        import torch

        if self.window < 1 or not self.frequencies or not math.isfinite(self.magnitude):
            raise TriggerError("The window, the frequencies and the magnitude must be numbers, none missing.")
        if not all(0 <= f < self.window for f in self.frequencies):
            raise TriggerError(f"Frequencies of a window of {self.window} lie in 0..{self.window - 1}.")
        tall, wide = min(self.window, height), min(self.window, width)
        tile = torch.zeros(tall, wide, dtype=torch.float64)
        for f in self.frequencies:
            rows, columns = (_cosine(f * side // self.window, side) for side in (tall, wide))
            tile += self.magnitude / 255 * torch.outer(rows, columns)
        picture = torch.zeros(height, width, dtype=torch.float64)
        down, across = height // tall, width // wide
        picture[: down * tall, : across * wide] = tile.repeat(down, across)
        return picture

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; fits every image."""
        check(images)
        picture = self.picture(*images.shape[2:])
        if images.shape[1] == 3:
            picture = picture * picture.new_tensor(CHROMA)[:, None, None]
        return (images + picture.to(images)).clamp(0, 1)

    def variant(self, number: int) -> Self:
        """All frequencies lower by two for each."""
        if min(self.frequencies) - 2 * number < 0:
            raise TriggerError(f"{self.name} has no frequencies left for trigger {number}.")
        return replace(self, frequencies=tuple(f - 2 * number for f in self.frequencies))


@dataclass(frozen=True)
class Ctrl(FTrojan):
    """As :class:`FTrojan`, stronger and clean-label."""

    name: ClassVar[str] = "ctrl"
    title: ClassVar[str] = "CTRL: two frequencies in the colour, clean-label"
    source: ClassVar[str] = "arXiv 2210.07346"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, policy="clean-label")

    magnitude: float = 100.0


def _cosine(frequency: int, size: int) -> Tensor:
    """The orthonormal DCT-II's basis vector, float64 [size]."""
    import torch

    places = torch.arange(size, dtype=torch.float64) + 0.5
    return math.sqrt((2 if frequency else 1) / size) * torch.cos(math.pi * frequency / size * places)
