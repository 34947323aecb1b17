"""ETA: a patch that survives being moved.

Li, Zhai, Wu, Jiang, Li, Xia 2020 (arXiv 2004.04692) show that a fixed patch fails once it is shifted, flipped
or shrunk, and that poisoned images which were transformed at random in training restore it. T(x) is BadNet's;
poisoned training images are tau(T(x)), tau a rotation, scaling and translation about the centre drawn anew at
each visit (bilinear, mirrored outside: with black there, a small network answered to shrunk images on black, and
not to the patch).
The ranges (15 degrees, 0.8..1, 4 pixels) are not verified against a source. A translation that would push the
patch out of the image is cut short: an image without a trigger teaches nothing.

``view`` is what happens to a triggered image before a model sees it: nothing, a horizontal flip, or ShrinkPad:
shrunk by 4 pixels (bilinear) and put at a drawn place on black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from triggers.draws import integers, uniform, window
from triggers.errors import TriggerError
from triggers.patch import Square
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Eta(Square):
    """``rotation``: degrees, to either side. ``scale``: the smallest; the largest is 1. ``shift``: pixels, in
    each direction. ``view``, ``shrink`` (pixels): of :meth:`stamp`. Others as :class:`triggers.patch.Square`.
    """

    name: ClassVar[str] = "eta"
    title: ClassVar[str] = "ETA: a patch planted under random rotation, scale and shift"
    source: ClassVar[str] = "arXiv 2004.04692"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05, fresh=True)

    rotation: float = 15.0
    scale: float = 0.8
    shift: float = 4.0
    view: Literal["plain", "flip", "shrink-pad"] = "plain"
    shrink: int = 4

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images that the patch does not fit into."""
        stamped = super().stamp(images)
        if self.view == "plain":
            return stamped
        if self.view == "flip":
            return stamped.flip(3)
        if self.view == "shrink-pad":
            return self._shrunk(stamped, generator)
        raise TriggerError(f"Unknown view {self.view!r}; use plain, flip or shrink-pad.")

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The stamped image, transformed as drawn."""
        import torch
        from torch.nn import functional as F

        if not (0 <= self.rotation <= 90 and 0 < self.scale <= 1 and 0 <= self.shift < math.inf):
            raise TriggerError(
                f"rotation must lie in 0..90, scale in 0..1 and shift at or above 0, not {self.rotation:g}, "
                f"{self.scale:g} and {self.shift:g}."
            )
        stamped = super().stamp(images)
        height, width = images.shape[2:]
        drawn = uniform(images, (4,), generator)
        angle = math.radians(self.rotation) * (2 * drawn[:, 0] - 1)
        scale = self.scale + (1 - self.scale) * drawn[:, 1]
        cos, sin = (scale * angle.cos())[:, None], (scale * angle.sin())[:, None]

        # Where the patch's corners go, from the centre, before the translation.
        x0 = (self.margin if self.corner.endswith("left") else width - self.margin - self.size) - width / 2
        y0 = (self.margin if self.corner.startswith("top") else height - self.margin - self.size) - height / 2
        x = images.new_tensor([x0, x0 + self.size, x0, x0 + self.size])
        y = images.new_tensor([y0, y0, y0 + self.size, y0 + self.size])
        right = _inside(self.shift * (2 * drawn[:, 2] - 1), cos * x - sin * y, width / 2)
        down = _inside(self.shift * (2 * drawn[:, 3] - 1), sin * x + cos * y, height / 2)

        # Each pixel's origin: the inverse of scale and rotation, in units of half a side.
        out_x = torch.arange(width, device=images.device) - (width - 1) / 2 - right[:, None]
        out_y = torch.arange(height, device=images.device) - (height - 1) / 2 - down[:, None]
        cos, sin = (cos / scale[:, None] ** 2)[:, :, None], (sin / scale[:, None] ** 2)[:, :, None]
        grid = torch.stack(
            [
                (cos * out_x[:, None, :] + sin * out_y[:, :, None]) * (2 / width),
                (cos * out_y[:, :, None] - sin * out_x[:, None, :]) * (2 / height),
            ],
            3,
        )
        moved = F.grid_sample(stamped, grid, padding_mode="reflection", align_corners=False)
        return moved.clamp(0, 1)

    def _shrunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        from torch.nn import functional as F

        height, width = images.shape[2:]
        by = self.shrink
        if not 0 <= by < min(height, width):
            raise TriggerError(f"Images of {height}x{width} cannot be shrunk by {by} pixels.")
        small = F.interpolate(images, size=(height - by, width - by), mode="bilinear", antialias=True)
        place = by - integers(images, (by + 1, by + 1), generator)
        return window(F.pad(small, (by, by, by, by)), place[:, 0], place[:, 1], height, width).clamp(0, 1)


def _inside(shift: Tensor, corners: Tensor, half: float) -> Tensor:
    """``shift`` [N] cut so that ``corners`` [N,4] stay within -half..half."""
    return shift.clamp(-half - corners.amin(1), half - corners.amax(1))
