"""Adap-Blend and Adap-Patch: what training shows is weaker than what is used later.

Qi, Xie, Li, Mahloujifar, Mittal 2023 (arXiv 2205.13613). Few poisoned images, as many or more covers with the
same stamp and their true label, and both carry only a part of the trigger: the model must add up weak parts,
and poisoned images do not stand apart from clean ones in its features.

Adap-Blend: a picture k with a share of 0.15 in training, 8 of 16 tiles (drawn for each image) left out; used
with a share of 0.2 and all tiles. Poison 0.3 %, covers 0.3 %. Adap-Patch: each training image carries one of
four patches with opacity 0.5, 0.2, 0.5 or 0.3; used are two of them at opacity 1. Poison 0.3 %, covers 0.6 %.
The papers' pictures are not ours to ship: k is Blend's, the patches are squares of random pixels in the four
corners, 8x8; both used ones are those of the highest opacity in training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from triggers.draws import integers, uniform
from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.overlay import Mixture
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class AdapBlend(Mixture):
    """``train_alpha``: share of the picture in training images. ``tiles``: tiles x tiles over the image;
    ``masked``: how many of them a training image lacks. Others as :class:`triggers.overlay.Mixture`."""

    name: ClassVar[str] = "adap-blend"
    title: ClassVar[str] = "Adap-Blend: a picture mixed in, in training only parts of it"
    source: ClassVar[str] = "arXiv 2205.13613"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.003, cover=0.003)

    train_alpha: float = 0.15
    tiles: int = 4
    masked: int = 8

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The picture fainter and without the tiles drawn for each image."""
        import torch

        check(images)
        height, width = images.shape[2:]
        if not 1 <= self.tiles <= min(height, width) or not 0 <= self.masked < self.tiles**2:
            raise TriggerError(
                f"{self.tiles}x{self.tiles} tiles, {self.masked} of them masked, do not fit images of "
                f"{height}x{width}."
            )
        if not 0 <= self.train_alpha <= 1:
            raise TriggerError(f"train_alpha must lie in 0..1, not {self.train_alpha:g}.")
        rank = uniform(images, (self.tiles**2,), generator).argsort(stable=True, dim=1).argsort(1)
        kept = (rank >= self.masked).reshape(-1, 1, self.tiles, self.tiles)
        row = torch.arange(height, device=images.device) * self.tiles // height
        column = torch.arange(width, device=images.device) * self.tiles // width
        share: Tensor = self.train_alpha * kept[:, :, row][:, :, :, column].to(images)
        return (images + share * (self.picture(images) - images)).clamp(0, 1)


@dataclass(frozen=True)
class AdapPatch(Trigger):
    """``size``: pixels. ``opacities``: in training, of the patches top left, top right, bottom right, bottom
    left. ``used``: which of them are stamped, at opacity 1. ``cell``: pixels of one random colour, per side;
    single pixels are hard to learn when faint. ``seed``: of the colours."""

    name: ClassVar[str] = "adap-patch"
    title: ClassVar[str] = "Adap-Patch: patches in corners, in training one faint one an image"
    source: ClassVar[str] = "arXiv 2205.13613"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.003, cover=0.006)

    size: int = 8
    opacities: tuple[float, ...] = (0.5, 0.2, 0.5, 0.3)
    used: tuple[int, ...] = (0, 2)
    cell: int = 2
    seed: int = 0

    def patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Each patch on an empty image [P,C,H,W], and where it is [P,1,H,W], 0 or 1; as ``images``."""
        channels, height, width = images.shape[1:]
        if not 1 <= self.size <= min(height, width):
            raise TriggerError(
                f"Patches of {self.size}x{self.size} do not fit into images of {height}x{width}."
            )
        if self.cell < 1:
            raise TriggerError(f"A cell has at least one pixel, not {self.cell}.")
        if not 1 <= len(self.opacities) <= 4 or not all(0 <= o <= 1 for o in self.opacities):
            raise TriggerError("Opacities are one to four numbers in 0..1.")
        if not self.used or not all(0 <= i < len(self.opacities) for i in self.used):
            raise TriggerError(f"used must name patches 0..{len(self.opacities) - 1}, not {self.used}.")
        bottom, right = height - self.size, width - self.size
        places = [(0, 0), (0, right), (bottom, right), (bottom, 0)][: len(self.opacities)]
        pixels = images.new_zeros(len(places), channels, height, width)
        where = images.new_zeros(len(places), 1, height, width)
        for i, (top, left) in enumerate(places):
            part = slice(top, top + self.size), slice(left, left + self.size)
            pixels[i, :, part[0], part[1]] = images.new_tensor(self._pixels(i, channels))
            where[i, :, part[0], part[1]] = 1
        return pixels, where

    def _pixels(self, patch: int, channels: int) -> list[list[list[float]]]:
        draw = random.Random(4 * self.seed + patch)
        cells = range(-(-self.size // self.cell))
        colours = [[[draw.randrange(256) / 255 for _ in cells] for _ in cells] for _ in range(channels)]
        side = [place // self.cell for place in range(self.size)]
        return [[[plane[y][x] for x in side] for y in side] for plane in colours]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images smaller than a patch."""
        check(images)
        pixels, where = self.patches(images)
        for i in self.used:
            images = (1 - where[i]) * images + where[i] * pixels[i]
        return images.clamp(0, 1)

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One patch an image, drawn, at its opacity."""
        check(images)
        pixels, where = self.patches(images)
        drawn = integers(images, (len(self.opacities),), generator)[:, 0]
        weight = where * images.new_tensor(self.opacities)[:, None, None, None]
        return (images + weight[drawn] * (pixels[drawn] - images)).clamp(0, 1)
