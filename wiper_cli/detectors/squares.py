"""Squares by the thousand: tables of them, laid over a grid or near a find, stamped on images in chunks."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import allowance, image_shape
from wiper_cli.detectors.evidence import Clock
from wiper_cli.perturbations import FILLS, Recovered, Shape, Square, is_checker, relative_size, square

#: Columns of a table of squares: int64 [S,4].
TOP, LEFT, SIDE, FILL = range(4)


class Grid(Protocol):
    """``sides`` in pixels of a 32x32 image, at places ``step`` apart from ``offset`` on, and all that lie within
    ``border`` pixels of a corner."""

    @property
    def sides(self) -> tuple[int, ...]: ...
    @property
    def step(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def border(self) -> int: ...


def squares(grid: Grid, shape: Shape, fills: int) -> Tensor:
    """Every square of the grid, int64 [S,4]: top, left, side, index of the fill."""
    unit = relative_size(shape)
    rows = []
    for side in dict.fromkeys(_pixels(s, unit, min(shape[1:])) for s in grid.sides):
        vertical, horizontal = shape[1] - side, shape[2] - side
        places = set()
        tops, lefts = (_axis(grid, last, unit) for last in (vertical, horizontal))
        places |= {(top, left) for top in tops for left in lefts}
        near = [_corner(last, grid.border, unit) for last in (vertical, horizontal)]
        places |= {(top, left) for top in near[0] for left in near[1]}
        rows += [(*place, side, fill) for place in sorted(places) for fill in range(fills)]
    return torch.tensor(rows, dtype=torch.long)


def _axis(grid: Grid, last: int, unit: float) -> list[int]:
    step = max(1, round(grid.step * unit))
    start = min(round(grid.offset * unit), last)
    return sorted({*range(start, last + 1, step), last})


def _corner(last: int, border: int, unit: float) -> list[int]:
    step = max(1, round(unit))
    near = {min(i * step, last) for i in range(border)}
    return sorted(near | {last - value for value in near})


def _pixels(side: int, unit: float, limit: int) -> int:
    return min(max(1, round(side * unit)), limit)


def neighbours(grid: Grid, finalists: Tensor, shape: Shape, fills: list[str]) -> Tensor:
    """The finalists, and what lies half a step and a pixel aside, is a pixel larger or smaller, or has
    another fill."""
    unit = relative_size(shape)
    pixel, half = max(1, round(unit)), max(1, round(grid.step * unit / 2))
    moves = sorted({(a, b) for d in (pixel, half) for a in (-d, 0, d) for b in (-d, 0, d)})
    found: dict[tuple[int, int, int, int], None] = {}
    for top, left, side, fill in finalists.tolist():
        for other in (side, side - pixel, side + pixel):
            if not 0 < other <= min(shape[1:]):
                continue
            for down, right in moves if other == side else [(0, 0), (side - other, side - other)]:
                row = min(max(top + down, 0), shape[1] - other)
                column = min(max(left + right, 0), shape[2] - other)
                found[row, column, other, fill] = None
        for other_fill in range(len(fills)):
            found[top, left, side, other_fill] = None
    return torch.tensor(list(found), dtype=torch.long)


def enlarged(table: Tensor, small: Shape, shape: Shape) -> Tensor:
    """Squares of reduced images, on whole ones."""
    side = (table[:, SIDE] * relative_size(shape) / relative_size(small)).round()
    found = [
        (table[:, i] * (shape[1 + i] / small[1 + i])).round().clamp(max=shape[1 + i] - side)
        for i in (TOP, LEFT)
    ]
    return torch.stack([*found, side, table[:, FILL]], 1).long()


def allowances(table: Tensor, shape: Shape) -> Tensor:
    """:func:`allowance` of every row, as a column."""
    return allowance(table[:, SIDE].double() ** 2 / (shape[1] * shape[2]))[:, None]


def answers(
    classifier: Classifier,
    images: Tensor,
    table: Tensor,
    fills: list[str],
    clock: Clock | None = None,
    rough: bool = False,
) -> Iterator[Tensor]:
    """Logits under the squares of one chunk of ``table`` after the other, [S',N,K]; ``rough`` as of
    :meth:`Classifier.logits`."""
    x = classifier.as_float(images)
    most = min(512, 2 * classifier.batch)
    chunks = table.split(max(1, most // len(images)))
    for number, chunk in enumerate(chunks):
        if clock is not None:
            clock.tick(number, len(chunks))
        shown = stamped(x, chunk, fills, image_shape(images))
        yield classifier.logits(shown, most, rough).reshape(len(chunk), len(images), -1)
    if clock is not None:
        clock.tick(len(chunks), len(chunks))


def stamped(images: Tensor, table: Tensor, fills: list[str], shape: Shape) -> Tensor:
    """``images`` float32 [N,C,H,W] under each of S squares → [S*N,C,H,W], squares outermost."""
    device = images.device
    rows = torch.arange(shape[1], device=device)[None, :] - table[:, TOP, None].to(device)
    columns = torch.arange(shape[2], device=device)[None, :] - table[:, LEFT, None].to(device)
    side = table[:, SIDE, None].to(device)
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    cell = max(1, round(relative_size(shape)))
    odd = (rows[:, :, None] // cell + columns[:, None, :] // cell) % 2 == 1
    pair = torch.stack([_two_colours(name, shape[0]) for name in fills]).to(device)[table[:, FILL].to(device)]
    colour = torch.where(odd[:, None], pair[:, 1, :, None, None], pair[:, 0, :, None, None])
    return torch.where(inside[:, None, None], colour[:, None], images[None]).flatten(0, 1)


def _two_colours(name: str, channels: int) -> Tensor:
    """Colours of even and odd cells, float32 [2,C]; equal where the fill is constant."""
    values = FILLS[name]
    if is_checker(name):
        return torch.tensor(values)[:, None].expand(2, channels)
    return torch.tensor(values if channels == 3 else values[:1]).expand(channels).expand(2, channels)


def recovered(
    target: int,
    row: Tensor,
    fills: list[str],
    shape: Shape,
    facts: Mapping[str, Any],
    mapping: Mapping[int, int] = MappingProxyType({}),
) -> Recovered:
    """The square of a row of a table, with ``facts`` beside its place, side and fill."""
    top, left, side, fill = (int(value) for value in row)
    canvas, mask = square(shape, top, left, side, fills[fill])
    place = {"top": top, "left": left, "side": side, "fill": fills[fill]}
    return Recovered(Square.family, target, {"canvas": canvas, "mask": mask}, {**facts, **place}, mapping)
