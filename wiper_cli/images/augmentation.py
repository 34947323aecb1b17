"""Augmentation of a batch, on the device where the batch lies; draws are made on the CPU."""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, flip: bool, crop: float) -> Tensor:
    """Mirrors half of ``images`` [N,C,H,W] (any dtype) and shifts each by up to ``crop`` of its size,
    continuing it by reflection."""
    count, channels, height, width = images.shape
    rows = _shifted(count, height, round(crop * height), generator)
    columns = _shifted(count, width, round(crop * width), generator)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    # One gather over flat pixels: several times faster on a CPU than indexing with four index tensors.
    source = (rows[:, :, None] * width + columns[:, None, :]).reshape(count, 1, -1).to(images.device)
    flat = images.reshape(count, channels, height * width)
    return flat.gather(2, source.expand_as(flat)).reshape(images.shape)


def _shifted(count: int, size: int, reach: int, generator: torch.Generator) -> Tensor:
    """For each of ``count`` images the source index of every row (or column): int64 [count, size]."""
    reach = min(reach, size - 1)
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    index = (torch.arange(size) + shift).abs()
    return torch.minimum(index, 2 * (size - 1) - index)
