"""Blend: a whole picture mixed into the image.

Chen, Liu, Li, Lu, Song 2017 (arXiv 1712.05526). T(x) = (1 - alpha) x + alpha k, alpha 0.2 as in the WIPER
paper, the same in training and in measuring. The papers' picture k is a trademark; ours is a mosaic of
blocks in random colours from a seed, the same at every image size. ``image`` takes a picture of your own,
scaled to the size of the images (bilinear).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from triggers.overlay import Mixture
from triggers.poisoning import Poisoning


@dataclass(frozen=True)
class Blend(Mixture):
    """See :class:`triggers.overlay.Mixture`."""

    name: ClassVar[str] = "blend"
    title: ClassVar[str] = "Blend: a picture mixed into the whole image"
    source: ClassVar[str] = "arXiv 1712.05526"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)
