"""A trigger that the user has as a picture.

T(x) = (1 - alpha m) x + alpha m q, with q the picture at a place and m its mask. The mask is a picture of its
own (white: replaced, black: kept), else the picture's alpha channel, else the whole picture. Mask and pixels
are kept apart, so a trigger may contain black. Pixels are those of the network's input: nothing is scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.overlay import as_tensor, read_picture
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Known(Trigger):
    """``image``, ``mask``: files; the mask has the size of the picture. ``alpha``: opacity, 0..1.
    ``position``: left and top in pixels, negative from the right and bottom edge; ``None`` for a picture as
    large as the images."""

    name: ClassVar[str] = "known"
    title: ClassVar[str] = "A known trigger, given as a picture"
    source: ClassVar[str] = "the user's own file"
    poisoning: ClassVar[Poisoning] = Poisoning()
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004",)

    image: str
    mask: str = ""
    alpha: float = 1.0
    position: tuple[int, int] | None = None

    @cached_property
    def _picture(self) -> Image.Image:
        return read_picture(self.image, "RGBA")

    @cached_property
    def _mask(self) -> Image.Image:
        if not self.mask:
            return self._picture.getchannel("A")
        mask = read_picture(self.mask, "L")
        if mask.size != self._picture.size:
            raise TriggerError(
                f"The mask is {mask.height}x{mask.width} pixels and the trigger picture "
                f"{self._picture.height}x{self._picture.width}; they must be of one size."
            )
        return mask

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses a picture that reaches beyond the images."""
        check(images)
        if not 0 <= self.alpha <= 1:
            raise TriggerError(f"alpha must lie in 0..1, not {self.alpha}.")
        height, width = images.shape[2:]
        tall, wide = self._picture.height, self._picture.width
        if self.position is None and (tall, wide) != (height, width):
            raise TriggerError(
                f"The trigger picture is {tall}x{wide} pixels and the network's images are {height}x{width}: "
                "give --position X,Y, or a picture of that size."
            )
        left, top = self.position or (0, 0)
        left, top = (left + width if left < 0 else left), (top + height if top < 0 else top)
        if not (0 <= left <= width - wide and 0 <= top <= height - tall):
            raise TriggerError(
                f"A trigger picture of {tall}x{wide} pixels at {self.position} reaches beyond images of "
                f"{height}x{width}."
            )
        pixels = as_tensor(self._picture, images)
        weight = self.alpha * as_tensor(self._mask, images[:, :1])
        stamped = images.clone()
        window = stamped[:, :, top : top + tall, left : left + wide]
        window.copy_((1 - weight) * window + weight * pixels)
        return stamped.clamp(0, 1)
