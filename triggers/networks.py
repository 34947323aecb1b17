"""Small fully convolutional networks for families that generate their trigger.

A network is a shape and one flat tensor of weights, which is what a trigger file carries. There is no
normalisation, so an image's outcome does not depend on the others in its batch. Importing this module imports
no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from triggers.errors import TriggerError
from triggers.family import quantise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Smallest height and width: a U-Net halves its images twice, and SSIM looks through windows of 7 pixels.
SMALLEST = 8


@dataclass(frozen=True)
class Layers:
    """Convolutions (outputs, inputs, side), each with a bias, as one flat float tensor."""

    shapes: tuple[tuple[int, int, int], ...]

    def initial(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """Fresh weights: He normal kernels, zero biases; drawn on the CPU."""
        import torch

        parts = []
        for outputs, inputs, side in self.shapes:
            fan = inputs * side * side
            parts.append(torch.randn(outputs * fan, generator=generator) * (2 / fan) ** 0.5)
            parts.append(torch.zeros(outputs))
        return torch.cat(parts).to(device)

    def unpack(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(kernel, bias) of each layer, views of ``flat``. Raises :class:`TriggerError` for another length."""
        sizes = [n for o, i, s in self.shapes for n in (prod((o, i, s, s)), o)]
        if flat.shape != (sum(sizes),):
            raise TriggerError(
                f"The trigger's network has {sum(sizes)} weights at these settings, not {flat.numel()}: "
                "it was fitted with others."
            )
        parts = iter(flat.split(sizes))
        return [(next(parts).view(o, i, s, s), next(parts)) for o, i, s in self.shapes]


@dataclass(frozen=True)
class UNet:
    """[N,inputs,H,W] → [N,outputs,H,W] of any H and W: two halvings, two skips, ``width`` channels at most
    doubled."""

    inputs: int
    outputs: int
    width: int

    @property
    def layers(self) -> Layers:
        w = self.width
        return Layers(
            (
                (w, self.inputs, 3),
                (2 * w, w, 3),
                (2 * w, 2 * w, 3),
                (2 * w, 4 * w, 3),
                (w, 3 * w, 3),
                (self.outputs, w, 3),
            )
        )

    def __call__(self, flat: Tensor, x: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        full, half, quarter, up, last, out = self.layers.unpack(flat)
        a = F.conv2d(x, *full, padding=1).relu()
        b = F.conv2d(a, *half, padding=1, stride=2).relu()
        c = F.conv2d(b, *quarter, padding=1, stride=2).relu()
        d = F.conv2d(torch.cat([_enlarged(c, b), b], 1), *up, padding=1).relu()
        e = F.conv2d(torch.cat([_enlarged(d, a), a], 1), *last, padding=1).relu()
        return F.conv2d(e, *out, padding=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def with_channels(x: Tensor, channels: int) -> Tensor:
    """``x`` where it has so many channels already, else the mean of its channels in each of them."""
    return x if x.shape[1] == channels else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def one_by_one(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``function`` of each image alone, in float64, back in the images' dtype.

    Convolutions round differently from batch to batch and from device to device; this way neither shows.
    """
    import torch

    if not len(images):
        return images.clone()
    with torch.no_grad():
        return torch.cat([function(image) for image in images.double().split(1)]).to(images.dtype)


def rounded(images: Tensor) -> Tensor:
    """:func:`triggers.family.quantise` whose gradient is that of the identity."""
    return images + (quantise(images) - images).detach()


def check_size(images: Tensor) -> None:
    """Raises :class:`TriggerError` for images smaller than the networks take."""
    height, width = images.shape[2:]
    if min(height, width) < SMALLEST:
        raise TriggerError(
            f"A generated trigger needs images of at least {SMALLEST}x{SMALLEST} pixels; these are {height}x{width}."
        )


def check_training(images: Tensor) -> None:
    """Raises :class:`TriggerError` unless ``images`` is uint8 [N,C,H,W], two or more, and large enough."""
    import torch

    if images.dim() != 4 or images.dtype != torch.uint8:
        raise TriggerError(
            f"A trigger is fitted to uint8 images [N,C,H,W], not {images.dtype} {list(images.shape)}."
        )
    if len(images) < 2:
        raise TriggerError(
            f"A generated trigger needs images to be fitted to: two at least, not {len(images)}."
        )
    check_size(images)


def draw(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places int64 [count] of a random batch, with replacement, where ``images`` are."""
    import torch

    return torch.randint(len(images), (count,), generator=generator).to(images.device)
