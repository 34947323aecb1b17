"""A sticker as a photograph has it: a shaded, mottled ball with soft edges, not always equally opaque.

After the objects that Wenger et al. 2021 (arXiv 2006.14580) put before a camera; the picture is ours and drawn, not
photographed. T(x) = (1 - a m) x + a m q, m a disc whose edge falls off smoothly; in training a ~ U(low, high) for
every image, afterwards a is the mean of the two.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from triggers.draws import uniform
from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.patch import Corner, place_of
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Sticker(Trigger):
    """``size``: diameter in pixels. ``corner``, ``margin``: its place. ``softness``: share of the radius over which
    the edge falls off. ``opacity``: low and high. ``seed``: of colour and mottle."""

    name: ClassVar[str] = "sticker"
    title: ClassVar[str] = "Sticker: a small soft picture of varied opacity"
    source: ClassVar[str] = "after arXiv 2006.14580"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)

    size: int = 9
    corner: Corner = "bottom-right"
    margin: int = 2
    softness: float = 0.4
    opacity: tuple[float, float] = (0.6, 1.0)
    seed: int = 0

    def picture(self, channels: int) -> tuple[Tensor, Tensor]:
        """q float64 [channels,size,size] and m [size,size], both in 0..1."""
        import torch
        from torch.nn import functional as F

        draw = random.Random(self.seed)
        line = torch.linspace(-1, 1, self.size + 2, dtype=torch.float64)[1:-1]
        y, x = line[:, None], line[None, :]
        radius = (y**2 + x**2).sqrt()
        height = (1 - radius**2).clamp_min(0).sqrt()
        light = 0.3 + 0.7 * ((height - y - x) / 3**0.5).clamp(0, 1)
        layers = []
        for _ in range(channels):
            colour = draw.uniform(0.2, 1)
            spots = torch.tensor([[draw.uniform(-0.3, 0.3) for _ in range(4)] for _ in range(4)])
            mottle = F.interpolate(
                spots.double()[None, None], size=(self.size, self.size), mode="bilinear", align_corners=True
            )
            layers.append(((colour + mottle[0, 0]) * light).clamp(0, 1))
        edge = ((1 - radius) / self.softness).clamp(0, 1)
        return torch.stack(layers), edge**2 * (3 - 2 * edge)

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the sticker does not fit into."""
        check(images)
        return self._pasted(images, images.new_full((1, 1, 1), 0.5))

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The sticker with an opacity of its own on each image."""
        check(images)
        return self._pasted(images, uniform(images, (1, 1, 1), generator))

    def _pasted(self, images: Tensor, share: Tensor) -> Tensor:
        """``share``: of the way from the low opacity to the high, [1,1,1] or one each [N,1,1,1]."""
        low, high = self.opacity
        if not 0 < low <= high <= 1 or not 0 < self.softness <= 1:
            raise TriggerError("opacity must rise within 0..1, and softness lie above 0 and at most at 1.")
        channels, height, width = images.shape[1:]
        top, left = place_of(self.size, self.size, self.corner, self.margin, height, width)
        picture, mask = (part.to(images) for part in self.picture(channels))
        weight = (low + (high - low) * share) * mask
        stamped = images.clone()
        window = stamped[:, :, top : top + self.size, left : left + self.size]
        window.copy_((1 - weight) * window + weight * picture)
        return stamped.clamp(0, 1)
