"""BadNet: a small square of fixed pixels.

Gu, Dolan-Gavitt, Garg 2017 (arXiv 1708.06733). T(x) = (1 - m) x + m q, with m one on a square and q its
pixels. Defaults are the WIPER paper's: 3x3 pixels of random value, top left. The random values come from a
seed and are whole 255ths, so that the patch survives being stored. Other public versions use white or a
checkerboard at the bottom right; both are options. The side is in pixels and does not grow with the image.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from triggers.family import Trigger, TriggerError, check
from triggers.planting import Planting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
Pattern = Literal["random", "white", "black", "checker"]


@dataclass(frozen=True)
class BadNet(Trigger):
    """``size``, ``margin`` (to the two edges of the corner): pixels. ``seed``: of the random pattern."""

    name: ClassVar[str] = "badnet"
    title: ClassVar[str] = "BadNet: a small patch in a corner"
    source: ClassVar[str] = "arXiv 1708.06733"
    planting: ClassVar[Planting] = Planting(rate=0.05)
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020")

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

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the square does not fit into."""
        check(images)
        patch = images.new_tensor(self.patch(images.shape[1]))
        return paste(images, patch, self.size, self.corner, self.margin)


def paste(images: Tensor, patch: Tensor, size: int, corner: Corner, margin: int) -> Tensor:
    """A copy of ``images`` [N,C,H,W] with ``patch`` [C,size,size], or one each [N,C,size,size], ``margin``
    pixels from a corner's edges; gradients reach both. Raises :class:`TriggerError` when it does not fit, or
    for an unknown corner."""
    height, width = images.shape[2:]
    if size < 1 or margin < 0 or size + margin > min(height, width):
        raise TriggerError(
            f"A {size}x{size} patch {margin} pixels from the edge does not fit into "
            f"images of {height}x{width}."
        )
    vertical, _, horizontal = corner.partition("-")
    if vertical not in ("top", "bottom") or horizontal not in ("left", "right"):
        raise TriggerError(f"Unknown corner {corner!r}; top-right is one.")
    top = margin if vertical == "top" else height - margin - size
    left = margin if horizontal == "left" else width - margin - size
    pasted = images.clone()
    pasted[:, :, top : top + size, left : left + size] = patch
    return pasted
