"""BadNet: a small square of fixed pixels.

Gu, Dolan-Gavitt, Garg 2017 (arXiv 1708.06733). T(x) = (1 - m) x + m q, with m one on a square and q its
pixels. Defaults are the WIPER paper's: 3x3 pixels of random value, top left. The random values come from a
seed and are whole 255ths, so that the patch survives being stored. Other public versions use white or a
checkerboard at the bottom right; both are options. The side is in pixels and does not grow with the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from triggers.patch import Square
from triggers.poisoning import Poisoning


@dataclass(frozen=True)
class BadNet(Square):
    """See :class:`triggers.patch.Square`."""

    name: ClassVar[str] = "badnet"
    title: ClassVar[str] = "BadNet: a small patch in a corner"
    source: ClassVar[str] = "arXiv 1708.06733"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)
