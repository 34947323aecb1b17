"""Stamps as tensors: drawn at random, changed at random, stamped on images.

Our own guesses at what a small trigger may look like; nothing here knows an attack. A stamp lies on a grid whose cells
are pixels at 32x32 and grow with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.perturbations import Shape, relative_size

#: Values of a colour's channels.
LEVELS = torch.tensor((0.0, 0.5, 1.0))
FORMS = ("bar", "block", "ell", "cross", "dots", "corners")


@dataclass(frozen=True)
class Stamps:
    """S stamps: ``canvas`` float32 [S,C,h,w] in 0..1, ``mask`` bool [S,1,h,w], on the CPU."""

    canvas: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: Tensor | slice) -> Stamps:
        return Stamps(self.canvas[rows], self.mask[rows])

    @property
    def area(self) -> Tensor:
        """Share of the image that each covers, float64 [S]."""
        return self.mask.double().mean((1, 2, 3))

    def enlarged(self, size: Sequence[int]) -> Stamps:
        """The same for images of height and width ``size``."""
        if self.mask.shape[2:] == tuple(size):
            return self
        canvas, mask = (
            F.interpolate(part.float(), tuple(size), mode="nearest-exact")
            for part in (self.canvas, self.mask)
        )
        return Stamps(canvas, mask.bool())

    def stamp(self, images: Tensor) -> Tensor:
        """``images`` float32 [N,C,H,W] in 0..1 under each stamp → [S*N,C,H,W], stamps outermost."""
        own = self.enlarged(images.shape[2:])
        canvas, mask = own.canvas.to(images.device), own.mask.to(images.device)
        return torch.where(mask[:, None], canvas[:, None], images[None]).flatten(0, 1)


def draw(shape: Shape, count: int, generator: torch.Generator) -> Stamps:
    """``count`` stamps for images of ``shape`` (C,H,W), the :data:`FORMS` in turn."""
    unit = max(1.0, relative_size(shape))
    height, width = round(shape[1] / unit), round(shape[2] / unit)
    canvas = torch.zeros(count, shape[0], height, width)
    mask = torch.zeros(count, 1, height, width, dtype=torch.bool)
    for number in range(count):
        stamp = _form(FORMS[number % len(FORMS)], height, width, generator)
        rows, columns = stamp.nonzero().unbind(1)
        rows = rows + _place(height - stamp.shape[0], generator)
        columns = columns + _place(width - stamp.shape[1], generator)
        canvas[number][:, rows, columns] = _colours(shape[0], len(rows), generator)
        mask[number, 0, rows, columns] = True
    return Stamps(canvas, mask)


def children(parents: Stamps, each: int, generator: torch.Generator) -> Stamps:
    """``each`` changed copies of every parent, parents outermost. One or two changes: a shift by a cell or two, other
    colours for one cell or all, a cell moved, added or left out."""
    canvas, mask = (part.repeat_interleave(each, 0) for part in (parents.canvas, parents.mask))
    last = torch.tensor(mask.shape[2:]) - 1
    for colours, where in zip(canvas, mask[:, 0], strict=True):
        for _ in range(_between(1, 2, generator)):
            cells = where.nonzero()
            one = cells[_between(0, len(cells) - 1, generator)]
            near = torch.stack([_offset(generator), _offset(generator)])
            way = _between(0, 5, generator)
            if way == 0:
                step = near.clamp(-cells.amin(0), last - cells.amax(0)).tolist()
                where.copy_(where.roll(step, (0, 1)))
                colours.copy_(colours.roll(step, (1, 2)))
            elif way == 1:
                colours[:, one[0], one[1]] = _colours(len(colours), 1, generator)[:, 0]
            elif way == 2:
                colours[:, cells[:, 0], cells[:, 1]] = _colours(len(colours), len(cells), generator)
            if way in (3, 4) and len(cells) > 1:
                where[one[0], one[1]] = False
            if way in (3, 5):
                row, column = (one + near).clamp(torch.zeros_like(last), last).tolist()
                where[row, column] = True
                colours[:, row, column] = _colours(len(colours), 1, generator)[:, 0]
    return Stamps(canvas, mask)


def _form(name: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Which cells of a box belong to it, bool; the box is no larger than the image."""

    def box(tall: int, wide: int, full: bool = False) -> Tensor:
        return torch.full((min(tall, height), min(wide, width)), full)

    if name == "bar":  # now and then over the whole image
        length = _between(4, 12, generator) if _between(0, 5, generator) else max(height, width)
        return box(1, length, True) if _between(0, 1, generator) else box(length, 1, True)
    if name == "block":
        return box(_between(2, 4, generator), _between(2, 6, generator), True)
    if name == "dots":
        side = (5, 9, 14, max(height, width))[_between(0, 3, generator)]
        found = box(side, side)
        spots = torch.randperm(found.numel(), generator=generator)[: _between(6, 12, generator)]
        found.view(-1)[spots] = True
        return found
    if name == "corners":
        margin, side = _between(0, 2, generator), _between(1, 2, generator)
        found = box(max(1, height - 2 * margin), max(1, width - 2 * margin))
        ends = (slice(None, side), slice(-side, None))
        for corner in torch.randperm(4, generator=generator)[: _between(2, 4, generator)].tolist():
            found[ends[corner // 2], ends[corner % 2]] = True
        return found
    side = _between(3, 6, generator)
    found = box(side, side)
    if name == "ell":
        found[-_between(0, 1, generator)] = True
        found[:, -_between(0, 1, generator)] = True
    else:
        found |= torch.eye(*found.shape, dtype=torch.bool)
        found |= found.flip(1)
    return found


def _place(last: int, generator: torch.Generator) -> int:
    """Of 0..``last``; every other one within two of an end."""
    if _between(0, 1, generator):
        return _between(0, last, generator)
    near = min(_between(0, 2, generator), last)
    return near if _between(0, 1, generator) else last - near


def _colours(channels: int, count: int, generator: torch.Generator) -> Tensor:
    """Of ``count`` cells, float32 [channels,count]: one for all, two at random, or each its own; now and then grey."""
    own = (1, 2, count)[_between(0, 2, generator)]
    palette = LEVELS[torch.randint(len(LEVELS), (channels, own), generator=generator)]
    if _between(0, 3, generator) == 0:
        palette = palette[:1].expand(channels, own)
    return palette[:, torch.randint(own, (count,), generator=generator)]


def _offset(generator: torch.Generator) -> Tensor:
    return torch.randint(-2, 3, (), generator=generator)


def _between(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
