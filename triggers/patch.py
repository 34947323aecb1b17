"""Square patches in a corner of the image: what BadNet and the attacks built on it stamp."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from triggers.errors import TriggerError
from triggers.family import Trigger, check

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
Pattern = Literal["random", "white", "black", "checker"]


@dataclass(frozen=True)
class Patch:
    """``pixels``: [C][h][w] in 0..1. ``top``, ``left``: its place in the network's input, in pixels."""

    pixels: Sequence[Sequence[Sequence[float]]]
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Square(Trigger):
    """Base of families that stamp a square of fixed pixels. ``size``, ``margin`` (to the two edges of the
    corner): pixels. ``seed``: of the random pattern."""

    size: int = 3
    corner: Corner = "top-left"
    margin: int = 0
    pattern: Pattern = "random"
    seed: int = 0

    def patch(self, channels: int) -> list[list[list[float]]]:
        """Pixels [C][size][size] in 0..1, whole 255ths; a channel does not depend on how many follow."""
        side = range(self.size)
        if self.pattern == "random":
            draw = random.Random(self.seed)
            return [[[draw.randrange(256) / 255 for _ in side] for _ in side] for _ in range(channels)]
        if self.pattern == "checker":
            return [[[float((y + x + 1) % 2) for x in side] for y in side]] * channels
        if self.pattern not in ("white", "black"):
            raise TriggerError(f"Unknown pattern {self.pattern!r}; use random, white, black or checker.")
        return [[[float(self.pattern == "white")] * self.size for _ in side]] * channels

    def placed(self, channels: int, height: int, width: int) -> Patch:
        """What is stamped on images [N,channels,height,width]."""
        place = place_of(self.size, self.size, self.corner, self.margin, height, width)
        return Patch(self.patch(channels), *place)

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the square does not fit into."""
        check(images)
        patch = images.new_tensor(self.patch(images.shape[1]))
        return paste(images, patch, self.size, self.corner, self.margin)


def paste(images: Tensor, patch: Tensor, size: int, corner: Corner, margin: int) -> Tensor:
    """A copy of ``images`` [N,C,H,W] with ``patch`` [C,size,size], or one each [N,C,size,size], ``margin``
    pixels from a corner's edges; gradients reach both. Raises :class:`TriggerError` when it does not fit, or
    for an unknown corner."""
    top, left = place_of(size, size, corner, margin, *images.shape[2:])
    pasted = images.clone()
    pasted[:, :, top : top + size, left : left + size] = patch
    return pasted


def place_of(tall: int, wide: int, corner: Corner, margin: int, height: int, width: int) -> tuple[int, int]:
    """Top and left of ``tall`` x ``wide`` pixels, ``margin`` from a corner's edges, in images of ``height`` x
    ``width``. Raises :class:`TriggerError` when they do not fit, or for an unknown corner."""
    if min(tall, wide) < 1 or margin < 0 or tall + margin > height or wide + margin > width:
        raise TriggerError(
            f"A {tall}x{wide} patch {margin} pixels from the edge does not fit into "
            f"images of {height}x{width}."
        )
    if corner not in get_args(Corner):
        raise TriggerError(f"Unknown corner {corner!r}; top-right is one.")
    top = margin if corner.startswith("top") else height - margin - tall
    return top, margin if corner.endswith("left") else width - margin - wide
