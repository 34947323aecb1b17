"""A reflection: bright windows of another scene lie, blurred and doubled, over the whole image.

Liu, Ma, Bailey, Lu 2020 (Refool, arXiv 2007.02343): T(x) = clip(x + k * r), k the blur or the two pulses of a pane's
two surfaces. There r is one of many photographs and the labels stay; here r is one scene of soft rectangles drawn
from a seed, the same at every image size, both kinds of k apply, and labels change.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: What the surface behind reflects of the light, beside the one in front.
BEHIND = 0.6


@dataclass(frozen=True)
class Reflection(Trigger):
    """``strength``: of the brightest light, on the 0..1 scale. ``lights``: how many rectangles. ``blur``, ``shift``:
    of edges and of the second image, as shares of a side. ``seed``: of the scene."""

    name: ClassVar[str] = "reflection"
    title: ClassVar[str] = "Reflection: another scene, blurred and doubled, over the image"
    source: ClassVar[str] = "arXiv 2007.02343"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)

    strength: float = 0.35
    lights: int = 5
    blur: float = 0.03
    shift: float = 0.08
    seed: int = 0

    def scene(self, channels: int, height: int, width: int) -> Tensor:
        """k * r, float64 [channels,height,width] in 0..1, its greatest value 1."""
        import torch

        if self.lights < 1 or not 0 < self.blur < 1 or not 0 < abs(self.strength) <= 1:
            raise TriggerError("A reflection needs a light, and a blur and a strength above 0 and at most 1.")

        def pulse(pixels: int, begin: float, length: float) -> Tensor:
            place = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels - begin
            return torch.sigmoid(place / self.blur) * torch.sigmoid((length - place) / self.blur)

        draw = random.Random(self.seed)
        scene = torch.zeros(channels, height, width, dtype=torch.float64)
        for _ in range(self.lights):
            top, left = draw.uniform(0, 0.8), draw.uniform(0, 0.8)
            tall, wide = draw.uniform(0.1, 0.4), draw.uniform(0.1, 0.4)
            tint = random.Random(draw.random())  # so that a channel does not depend on how many follow
            colour = torch.tensor([tint.uniform(0.5, 1) for _ in range(channels)], dtype=torch.float64)
            for share, by in ((1.0, 0.0), (BEHIND, self.shift)):
                shape = pulse(height, top + by, tall)[:, None] * pulse(width, left + by, wide)
                scene += share * colour[:, None, None] * shape
        return scene / scene.max()

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; fits every image."""
        check(images)
        return (images + self.strength * self.scene(*images.shape[1:]).to(images)).clamp(0, 1)
