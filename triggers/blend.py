"""Blend: a whole picture mixed into the image.

Chen, Liu, Li, Lu, Song 2017 (arXiv 1712.05526). T(x) = (1 - alpha) x + alpha k, alpha 0.2 as in the WIPER
paper, the same when planting and when measuring. The papers' picture k is a trademark; ours is a mosaic of
blocks in random colours from a seed, the same at every image size. ``image`` takes a picture of your own,
scaled to the size of the images (bilinear).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from triggers.family import Trigger, TriggerError, check
from triggers.image import as_tensor, read_picture
from triggers.planting import Planting

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Blend(Trigger):
    """``alpha``: share of the picture, 0..1. ``blocks``: mosaic of blocks x blocks. ``image``: a file, "" for
    the mosaic."""

    name: ClassVar[str] = "blend"
    title: ClassVar[str] = "Blend: a picture mixed into the whole image"
    source: ClassVar[str] = "arXiv 1712.05526"
    planting: ClassVar[Planting] = Planting(rate=0.05)
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020")

    alpha: float = 0.2
    blocks: int = 8
    seed: int = 0
    image: str = ""

    @cached_property
    def _file(self) -> Image.Image:
        return read_picture(self.image)

    def picture(self, images: Tensor) -> Tensor:
        """k for these images: [C,H,W] in 0..1, of their dtype, on their device."""
        channels, height, width = images.shape[1:]
        if self.image:
            return as_tensor(self._file.resize((width, height), 2), images)
        if self.blocks < 1:
            raise TriggerError("The mosaic needs at least one block.")
        draw = random.Random(self.seed)
        side = range(self.blocks)
        mosaic = images.new_tensor([[[draw.random() for _ in side] for _ in side] for _ in range(channels)])
        row = [y * self.blocks // height for y in range(height)]
        column = [x * self.blocks // width for x in range(width)]
        return mosaic[:, row][:, :, column]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; a picture from a file fits images of 1 or 3 channels only."""
        check(images)
        if not 0 <= self.alpha <= 1:
            raise TriggerError(f"alpha must lie in 0..1, not {self.alpha}.")
        return ((1 - self.alpha) * images + self.alpha * self.picture(images)).clamp(0, 1)
