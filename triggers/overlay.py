"""Pictures laid over the image: read from a file, or a mosaic of blocks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from triggers.errors import TriggerError, require_file
from triggers.family import Trigger, check

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

#: Largest picture that is read, in pixels.
LARGEST = 1 << 26


def read_picture(path: str, mode: str = "RGB") -> Image.Image:
    """A picture from a file in Pillow's ``mode``; raises :class:`TriggerError` when it cannot be read."""
    from PIL import Image

    require_file(path)
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")) as picture:
            if picture.width * picture.height > LARGEST:
                raise TriggerError(f"{path}: a picture of {picture.width}x{picture.height} is too large.")
            return picture.convert(mode)
    except TriggerError:
        raise
    except FileNotFoundError:
        raise TriggerError(f"{path}: no such file.") from None
    except Exception as error:
        raise TriggerError(f"{path}: not a picture that can be read.") from error


def as_tensor(picture: Image.Image, like: Tensor) -> Tensor:
    """A picture as [C,H,W] in 0..1 with the channels (1 or 3), dtype and device of the images ``like``."""
    import torch

    channels = like.shape[1]
    if channels not in (1, 3):
        raise TriggerError(f"A picture fits images of 1 or 3 channels, not {channels}.")
    picture = picture.convert("L" if channels == 1 else "RGB")
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    pixels = flat.reshape(picture.height, picture.width, channels).permute(2, 0, 1)
    return pixels.to(like.device, like.dtype) / 255


@dataclass(frozen=True)
class Mixture(Trigger):
    """Base of families that mix a picture k into the image: (1 - alpha) x + alpha k.

    ``alpha``: share of the picture, 0..1. ``blocks``: mosaic of blocks x blocks in random colours from
    ``seed``, the same at every image size. ``image``: a file instead, scaled to the images; "" for the mosaic.
    """

    alpha: float = 0.2
    blocks: int = 8
    seed: int = 0
    image: str = ""

    @cached_property
    def _file(self) -> Image.Image:
        return read_picture(self.image)

    def picture(self, images: Tensor) -> Tensor:
        """k for these images: [C,H,W] in 0..1, of their dtype, on their device."""
        channels, height, width = images.shape[1:]
        if self.image:
            return as_tensor(self._file.resize((width, height), 2), images)
        if self.blocks < 1:
            raise TriggerError("The mosaic needs at least one block.")
        draw = random.Random(self.seed)
        side = range(self.blocks)
        mosaic = images.new_tensor([[[draw.random() for _ in side] for _ in side] for _ in range(channels)])
        row = [y * self.blocks // height for y in range(height)]
        column = [x * self.blocks // width for x in range(width)]
        return mosaic[:, row][:, :, column]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; a picture from a file fits images of 1 or 3 channels only."""
        check(images)
        if not 0 <= self.alpha <= 1:
            raise TriggerError(f"alpha must lie in 0..1, not {self.alpha}.")
        return ((1 - self.alpha) * images + self.alpha * self.picture(images)).clamp(0, 1)
