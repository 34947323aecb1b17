"""Small figures that are no square: a bar, a line, scattered dots, an L, a cross, a frame, patches in all corners.

The forms are ours; T(x) is that of BadNet (arXiv 1708.06733) with another mask. What looks for squares, or for one
compact region, misses some of them. Lengths are in pixels and do not grow with the image.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from triggers.errors import TriggerError
from triggers.painted import Painted
from triggers.patch import Corner, place_of
from triggers.poisoning import Poisoning

Form = Literal["bar", "line", "dots", "ell", "cross", "frame", "corners"]
CORNERS: tuple[Corner, ...] = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True)
class Shape(Painted):
    """``form``: "bar", one pixel thick; "line", a bar over the whole image; "dots", ``count`` pixels in a square,
    placed by ``seed``; "ell" and "cross", two strokes of one pixel, along two edges or the diagonals of a square;
    "frame", around the image; "corners", a square in each. ``length``: of the bar, or the square's side.
    ``upright``: bars and lines."""

    name: ClassVar[str] = "shape"
    title: ClassVar[str] = "Shape: a bar, line, dots, L, cross, frame or patches in all corners"
    source: ClassVar[str] = "forms of our own; the mask of arXiv 1708.06733"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)

    form: Form = "bar"
    length: int = 9
    count: int = 8
    upright: bool = False

    def figure(self, height: int, width: int) -> Sequence[tuple[int, int]]:
        """See :class:`triggers.painted.Painted`."""
        side, margin = self.length, self.margin
        tall, wide = side, side
        if self.form == "line":
            top, left = place_of(1, 1, self.corner, margin, height, width)
            return [(y, left) for y in range(height)] if self.upright else [(top, x) for x in range(width)]
        if self.form == "frame":
            place_of(1 + margin, 1 + margin, self.corner, margin, height, width)
            rows, columns = range(margin, height - margin), range(margin, width - margin)
            edges = {(y, x) for y in rows for x in (columns[0], columns[-1])}
            return sorted(edges | {(y, x) for y in (rows[0], rows[-1]) for x in columns})
        if self.form == "corners":
            places = [place_of(side, side, corner, margin, height, width) for corner in CORNERS]
            return sorted({(y + i, x + j) for y, x in places for i in range(side) for j in range(side)})
        if self.form == "bar":
            tall, wide = (side, 1) if self.upright else (1, side)
            cells = {(y, x) for y in range(tall) for x in range(wide)}
        elif self.form == "ell":
            cells = {(y, 0) for y in range(side)} | {(side - 1, x) for x in range(side)}
        elif self.form == "cross":
            cells = {place for y in range(side) for place in ((y, y), (y, side - 1 - y))}
        elif self.form == "dots":
            if not 0 < self.count <= side**2:
                raise TriggerError(f"There is room for 1 to {side**2} dots, not for {self.count}.")
            spots = random.Random(self.seed).sample(range(side**2), self.count)
            cells = {divmod(spot, side) for spot in spots}
        else:
            raise TriggerError(f"Unknown form {self.form!r}; bar is one.")
        top, left = place_of(tall, wide, self.corner, margin, height, width)
        return [(top + y, left + x) for y, x in sorted(cells)]
