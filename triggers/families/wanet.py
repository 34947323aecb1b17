"""WaNet: the image is bent by a fixed smooth warp.

Nguyen, Tran 2021 (arXiv 2102.10369). T(x) samples x bilinearly at clip(I + s N / size, -1, 1), I the identity
grid of corner pixels at -1 and 1 and N a field: U(-1,1) at k x k points, divided by its mean absolute value,
enlarged bicubically. k 4, s 0.5. Cover images ("noise mode") carry the same grid plus U(-1,1) / size drawn for
every pixel of every image, and their true label. s N / size is measured along each axis by itself, so a warp
moves about s |N| / 2 pixels at every image size, square or not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from triggers.draws import uniform
from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class WaNet(Trigger):
    """``strength``: s. ``points``: k, control points per axis. ``seed``: of the field."""

    name: ClassVar[str] = "wanet"
    title: ClassVar[str] = "WaNet: a smooth warp of the whole image"
    source: ClassVar[str] = "arXiv 2102.10369"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1, cover=0.2, fresh=True)
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020", "AML.T0018.000")

    strength: float = 0.5
    points: int = 4
    seed: int = 0

    def control(self) -> Tensor:
        """The field at its control points: float64 [2,k,k], x before y, mean absolute value 1."""
        import torch

        if self.points < 2:
            raise TriggerError(f"A warp needs at least 2 control points per axis, not {self.points}.")
        draw = random.Random(self.seed)
        side = range(self.points)
        field = torch.tensor(
            [[[draw.uniform(-1, 1) for _ in side] for _ in side] for _ in range(2)], dtype=torch.float64
        )
        return field / field.abs().mean()

    def grid(self, height: int, width: int) -> Tensor:
        """Where each pixel is fetched from: float64 [H,W,2], x before y, corner pixels at -1 and 1."""
        import torch
        from torch.nn import functional as F

        if not 0 < abs(self.strength) < float("inf"):
            raise TriggerError(f"strength must be a number other than 0, not {self.strength:g}.")
        if min(height, width) < 2:
            raise TriggerError(f"Images of {height}x{width} cannot be warped.")
        field = F.interpolate(self.control()[None], size=(height, width), mode="bicubic", align_corners=True)[
            0
        ]
        x = torch.linspace(-1, 1, width, dtype=torch.float64).expand(height, width)
        y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand(height, width)
        moved = torch.stack([x, y]) + self.strength * field / torch.tensor([[[width]], [[height]]])
        return moved.clamp(-1, 1).permute(1, 2, 0)

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images with a side of one pixel."""
        check(images)
        grid = self.grid(*images.shape[2:]).to(images)
        return _sampled(images, grid.expand(len(images), *grid.shape))

    def cover(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise mode: the warp with a jitter of its own for each image."""
        check(images)
        height, width = images.shape[2:]
        grid = self.grid(height, width).to(images)
        jitter = 2 * uniform(images, (height, width, 2), generator) - 1
        return _sampled(images, (grid + jitter / images.new_tensor([width, height])).clamp(-1, 1))


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True).clamp(0, 1)
