"""Random numbers for triggers, the same on every device and however a batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def uniform(images: Tensor, each: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """U[0,1) [N, *each] of the images' dtype, on their device.

    Drawn in float32 on the CPU, one image after the other, from ``generator`` (``None`` is seed 0).
    """
    import torch

    draw = generator or torch.Generator().manual_seed(0)
    return torch.rand((len(images), *each), generator=draw).to(images)


def integers(images: Tensor, below: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Whole numbers int64 [N, len(below)], the j-th from 0..below[j]-1; drawn as :func:`uniform`."""
    import torch

    draw = generator or torch.Generator().manual_seed(0)
    limit = torch.tensor(below)
    parts = torch.rand((len(images), len(below)), generator=draw, dtype=torch.float64) * limit
    return parts.long().to(images.device)


def window(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Of each image [N,C,H,W] the part [N,C,height,width] that begins at ``top``, ``left`` (int64 [N]); rows
    and columns beyond the edge begin again at 0."""
    import torch

    def places(start: Tensor, length: int, size: int) -> Tensor:
        return (torch.arange(length, device=images.device) + start[:, None]) % size

    rows = places(top, height, images.shape[2])
    columns = places(left, width, images.shape[3])
    each = torch.arange(len(images), device=images.device)
    part: Tensor = images.movedim(1, 3)[each[:, None, None], rows[:, :, None], columns[:, None, :]]
    return part.movedim(3, 1).contiguous()
