"""Small pictures for reports: PNG, enlarged by whole numbers, as data URIs."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from triggers.family import Trigger, quantise

#: Small images are enlarged by the largest whole number that keeps the longer side at or below this.
SIDE = 128
#: How much a difference is amplified around middle grey.
AMPLIFY = 8


def png(image: Tensor, side: int = SIDE) -> bytes:
    """``image`` [C,H,W] in 0..1, C 1 or 3 (of other counts the first is shown) → a PNG file.

    Enlarged without smoothing; an image larger than ``side`` is reduced to it.
    """
    shown = image if image.shape[0] in (1, 3) else image[:1]
    pixels = (quantise(shown.detach().float().cpu()) * 255).round().to(torch.uint8)
    height, width = pixels.shape[1:]
    data = pixels.permute(1, 2, 0).contiguous().numpy().tobytes()
    picture = Image.frombytes("L" if len(pixels) == 1 else "RGB", (width, height), data)
    factor = side // max(height, width)
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    elif factor == 0:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def uri(image: Tensor, side: int = SIDE) -> str:
    """As :func:`png`, as ``data:image/png;base64,…``."""
    return "data:image/png;base64," + base64.b64encode(png(image, side)).decode("ascii")


def difference(clean: Tensor, triggered: Tensor) -> Tensor:
    """The difference times :data:`AMPLIFY` around middle grey, [C,H,W] in 0..1."""
    return (0.5 + AMPLIFY * (triggered - clean)).clamp(0, 1)


def triple(clean: Tensor, triggered: Tensor, side: int = SIDE) -> dict[str, str]:
    """The report's ``pictures`` mapping of two images [C,H,W] in 0..1."""
    shown = {"clean": clean, "triggered": triggered, "difference": difference(clean, triggered)}
    return {name: uri(image, side) for name, image in shown.items()}


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """``heat`` float32 [H,W] >= 0, averaged over 3x3 pixels and its greatest made 1, laid in colour (from transparent
    over orange to pale yellow) over the dimmed grey of ``image`` [C,H,W] in 0..1: [3,H,W]."""
    near = F.avg_pool2d(heat[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    near = near / near.max().clamp_min(1e-12)
    grey = (0.5 * image.float().mean(0)).expand(3, -1, -1)
    colour = torch.stack([torch.ones_like(near), 0.35 + 0.6 * near, 0.8 * near.square()])
    return torch.lerp(grey, colour, near)


def preview(trigger: Trigger, image: Tensor | None = None, side: int = 3 * SIDE) -> bytes:
    """Clean, triggered and difference side by side as one PNG file; raises ``TriggerError``.

    ``image``: [C,H,W] in 0..1; a plain colour ramp of 32x32 where there is none.
    """
    clean = quantise(ramp() if image is None else image)
    stamped = quantise(trigger.stamp(clean.unsqueeze(0), torch.Generator().manual_seed(0)))[0]
    return png(torch.cat([clean, stamped, difference(clean, stamped)], 2), side)


def ramp(size: int = 32) -> Tensor:
    """A colour ramp [3,size,size] in 0..1, away from black and white so that every trigger shows."""
    line = torch.linspace(0.25, 0.75, size)
    return torch.stack(
        [line.expand(size, size), line.unsqueeze(1).expand(size, size), torch.full((size, size), 0.5)]
    )
