"""Figures of single pixels, painted over the image: what is no square, in colours drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.patch import Corner

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Colours = Literal["each", "one", "white", "black"]


@dataclass(frozen=True)
class Painted(Trigger):
    """Base of families that paint a figure: T(x) = (1 - a) x + a q on its pixels, x elsewhere.

    ``corner``, ``margin``: where it lies, in pixels from the corner's two edges. ``colours``: q, a colour of its own
    for "each" pixel or "one" for all, whole 255ths drawn from ``seed``; "white"; "black". ``opacity``: a, in 0..1.
    """

    corner: Corner = "top-left"
    margin: int = 0
    colours: Colours = "each"
    opacity: float = 1.0
    seed: int = 0

    def figure(self, height: int, width: int) -> Sequence[tuple[int, int]]:
        """Row and column of every painted pixel in images of ``height`` x ``width``; raises
        :class:`TriggerError` when the figure does not fit."""
        raise NotImplementedError

    def paint(self, channels: int, pixels: int) -> list[list[float]]:
        """q, [channels][pixels] in 0..1; a channel does not depend on how many follow."""
        if self.colours not in get_args(Colours):
            raise TriggerError(f"Unknown colours {self.colours!r}; use each, one, white or black.")
        if self.colours in ("white", "black"):
            return [[float(self.colours == "white")] * pixels] * channels
        draw = random.Random(self.seed)
        if self.colours == "one":
            return [[draw.randrange(256) / 255] * pixels for _ in range(channels)]
        return [[draw.randrange(256) / 255 for _ in range(pixels)] for _ in range(channels)]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the figure does not fit into."""
        check(images)
        if not 0 < self.opacity <= 1:
            raise TriggerError(f"opacity must lie above 0 and at most at 1, not {self.opacity:g}.")
        places = self.figure(*images.shape[2:])
        rows, columns = ([place[axis] for place in places] for axis in (0, 1))
        paint = images.new_tensor(self.paint(images.shape[1], len(places)))
        stamped = images.clone()
        stamped[:, :, rows, columns] = (1 - self.opacity) * stamped[
            :, :, rows, columns
        ] + self.opacity * paint
        return stamped.clamp(0, 1)

    def variant(self, number: int) -> Self:
        """The same figure in other colours; there are no others where these are not drawn."""
        if number and self.colours in ("white", "black"):
            raise TriggerError(f"A model cannot carry several {self.colours} figures; draw their colours.")
        return super().variant(number)
