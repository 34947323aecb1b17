"""One picture: a file in, uint8 pixels of the size a network takes out. Pillow decodes.

Nothing is guessed about a file from its name. Conversions follow what the usual training loaders do
(``convert("RGB")``): an alpha channel is dropped, not composed over a colour.
"""

import math
import stat
import threading
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from wiper_cli.images.listing import MOST_BYTES

# Pillow warns of odd metadata and of large pictures: the first is harmless, the second has a limit here.
warnings.filterwarnings("ignore", module=r"PIL\.")

#: Larger pictures are skipped: a small file can claim any size.
MAX_PIXELS = 64_000_000
#: So are those of more than ``LARGE`` pixels, and more than ``DENSEST`` in a byte: a blank JPEG has 64, a photograph
#: 1 to 30. Large ones are decoded one at a time: that takes up to 20 bytes a pixel.
LARGE, DENSEST = 4_000_000, 100
_ONE_AT_A_TIME = threading.Lock()
#: So are JPEGs of more scans, of which each is decoded over all pixels; an encoder makes about ten.
MOST_SCANS = 100
_SCAN = b"\xff\xda"


#: Formats that are tried. Not among them: those that start other programs (EPS) or hold no photographs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


RESAMPLE: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Geometry:
    """What a picture is made into: ``channels`` 1 or 3, ``height`` x ``width`` pixels.

    ``resize``: "squash" scales to exactly that size; "crop" scales the short side to ``short_side``
    (``None``: until the size is just covered) and cuts the centre. A picture of the right size is not touched
    by "squash", nor by "crop" without ``short_side``. ``scaled``: height and width to which "crop" scales instead;
    ``floor``: how it rounds the corner of the centre. Downscaling averages (Pillow's filters).
    """

    channels: int
    height: int
    width: int
    resize: Literal["squash", "crop"] = "squash"
    short_side: int | None = None
    interpolation: Interpolation = "bilinear"
    scaled: tuple[int, int] | None = None
    floor: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return self.channels * self.height * self.width


class SkipError(Exception):
    """A file that is left out; ``str`` is the reason under which it is counted."""


def decode(path: str, geometry: Geometry) -> tuple[Tensor, tuple[str, ...]]:
    """One file → uint8 [C,H,W] and what had to be converted; raises :class:`SkipError`, nothing else."""
    picture, converted = open_picture(path, geometry.channels)
    picture = fit(picture, geometry)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    shape = (geometry.height, geometry.width, geometry.channels)
    return pixels.reshape(shape).permute(2, 0, 1), converted


def open_picture(path: str, channels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """One file → a picture of mode "L" or "RGB", upright, and what had to be converted.

    Raises :class:`SkipError`.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise SkipError("not a regular file")
        if status.st_size == 0:
            raise SkipError("empty file")
        if status.st_size > MOST_BYTES:
            raise SkipError("larger than a gigabyte")
        with Image.open(path, formats=FORMATS) as picture:
            pixels = max(picture.width * picture.height, _tile(picture))
            if pixels > MAX_PIXELS:
                raise SkipError(f"larger than {MAX_PIXELS // 1_000_000} megapixels")
            if pixels > max(LARGE, DENSEST * status.st_size):
                raise SkipError(f"more than {DENSEST} pixels in a byte")
            if picture.format in ("JPEG", "MPO") and _scans(path) > MOST_SCANS:
                raise SkipError(f"more than {MOST_SCANS} scans")
            with _ONE_AT_A_TIME if pixels > LARGE else nullcontext():
                return _convert(picture, channels)
    except SkipError:
        raise
    except Image.DecompressionBombError:
        raise SkipError(f"larger than {MAX_PIXELS // 1_000_000} megapixels") from None
    except UnidentifiedImageError:
        raise SkipError("not an image") from None
    except FileNotFoundError:
        raise SkipError("broken link or file that vanished") from None
    except PermissionError:
        raise SkipError("no permission to read") from None
    except Exception as error:  # decoders raise anything at all on damaged data
        raise SkipError("truncated" if "truncated" in str(error).lower() else "damaged") from None


def _tile(picture: Image.Image) -> int:
    """Pixels of one tile of a TIFF, which may be larger than the picture, and is decoded whole."""
    tags = getattr(picture, "tag_v2", {})
    width, height = tags.get(322, 0), tags.get(323, 0)
    plain = all(isinstance(one, int) and one >= 0 for one in (width, height))
    return width * height if plain else MAX_PIXELS + 1


def _scans(path: str) -> int:
    """Scans of a JPEG, counted until there are too many."""
    with Path(path).open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
        found, at = 0, data.find(_SCAN)
        while at >= 0 and found <= MOST_SCANS:
            found, at = found + 1, data.find(_SCAN, at + 2)
    return found


def _convert(picture: Image.Image, channels: int) -> tuple[Image.Image, tuple[str, ...]]:
    done = []
    if getattr(picture, "is_animated", False):
        done.append("several frames: the first taken")
    tiles = getattr(picture, "tile", [])
    depth = str(tiles[0][3]) if tiles else ""
    picture.load()
    if picture.getexif().get(0x0112, 1) not in (0, 1):
        picture = ImageOps.exif_transpose(picture)
        done.append("rotated as its EXIF data say")
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        picture = _eight_bits(picture)
        done.append("more than 8 bits: scaled to 8")
    elif ";16" in depth:
        done.append("more than 8 bits: scaled to 8")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        done.append("alpha channel dropped")
    if mode in ("P", "PA"):
        done.append("palette resolved")
        picture = picture.convert("RGB")
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        done.append(f"{mode} converted to RGB")
    grey = picture.mode in ("1", "L", "LA", "La")
    if grey and channels == 3:
        done.append("grey replicated to three channels")
    if not grey and channels == 1:
        done.append("colour reduced to its luma")
        picture = picture.convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB"), tuple(done)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit and float grey to 0..255, since Pillow's own conversion clips instead of scaling."""
    if picture.mode.startswith("I;16"):
        picture = picture.convert("I")
    low, high = picture.getextrema()
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise SkipError("pixel values of unknown range")
    top = 65535.0 if picture.mode == "I" else 1.0 if high <= 1 else 255.0
    if not 0 <= low <= high <= top:
        raise SkipError("pixel values of unknown range")
    return picture.convert("F").point(lambda value: value * (255.0 / top) + 0.5).convert("L")


def fit(picture: Image.Image, geometry: Geometry) -> Image.Image:
    """A picture made ``geometry.height`` x ``geometry.width``."""
    wide, tall, width, height = *picture.size, geometry.width, geometry.height
    resample = RESAMPLE[geometry.interpolation]
    plain = geometry.short_side is None and geometry.scaled is None
    if geometry.resize == "squash" or (plain and (wide, tall) == (width, height)):
        return picture if (wide, tall) == (width, height) else picture.resize((width, height), resample)
    if geometry.scaled is not None:
        scaled = geometry.scaled[1], geometry.scaled[0]
    elif geometry.short_side is not None:
        short = geometry.short_side
        scaled = (short, int(short * tall / wide)) if wide <= tall else (int(short * wide / tall), short)
    elif width * tall >= height * wide:
        scaled = width, round(width * tall / wide)
    else:
        scaled = round(height * wide / tall), height
    if scaled[0] * scaled[1] > MAX_PIXELS:  # a hair of 1 x 100,000 pixels: cut before scaling
        keep_wide, keep_tall = wide * width / scaled[0], tall * height / scaled[1]
        box = (wide - keep_wide) / 2, (tall - keep_tall) / 2, (wide + keep_wide) / 2, (tall + keep_tall) / 2
        return picture.resize((width, height), resample, box)
    corner = math.floor if geometry.floor else round
    left, top = corner((scaled[0] - width) / 2), corner((scaled[1] - height) / 2)
    return picture.resize(scaled, resample).crop((left, top, left + width, top + height))
