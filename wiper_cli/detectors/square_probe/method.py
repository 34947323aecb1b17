"""Three passes over squares: all of them on few images, the neighbours of the best, and the choice."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import (
    allowance,
    image_shape,
    over_others,
    predictions,
    sample,
    smaller,
)
from wiper_cli.detectors.effort import Extent, Plan, reduced
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import (
    FILLS,
    Recovered,
    Shape,
    Square,
    is_checker,
    relative_size,
    square,
    usable_fills,
)

#: Columns of the table of squares: int64 [S,4].
TOP, LEFT, SIDE, FILL = range(4)
#: A square of a 32x32 image with room on all sides.
_MIDDLE = torch.tensor([[12, 12, 4, 0]])


#: Most squares that the last choice is made from; most finds that are scored beside the best of every class.
LAST, FINDS = 48, 5


def plan(probe: SquareProbe, extent: Extent) -> Plan:
    """All squares on few images, what lies near the best on more, the last on most, and what is scored."""
    height, width = reduced(extent, probe.resolution)
    share = height * width / (extent.height * extent.width)
    fills = usable_fills(extent.channels, probe.fills)
    table = squares(probe, (extent.channels, height, width), len(fills))
    shape = (extent.channels, extent.height, extent.width)
    third = max(1, probe.finalists // 3)
    around = len(_neighbours(probe, _MIDDLE * extent.height // 32, shape, fills))
    near = (2 * third + min(third, extent.classes)) * around
    fit, held = min(probe.images, extent.fit), min(probe.held, extent.select)
    coarse, refine = min(probe.coarse_images, extent.fit), min(probe.refine_images, extent.fit)
    forward = share * coarse * (len(table) + 1) + refine * near + fit * (min(LAST, 3 * extent.classes) + 1)
    scores = held * (1 + min(probe.verified, extent.classes) + FINDS)
    how = {"squares": len(table), "images": coarse, "side": min(height, width), "refined": near}
    return Plan(probe.name, extent.classes, round(forward + scores), 0, how)


def look(probe: SquareProbe, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Chooses on the fit part, scores the best squares on images of select."""
    generator = torch.Generator().manual_seed(seed)
    shape = image_shape(clean.fit.images)
    fit = sample(clean.fit.images, probe.images, generator)
    held = sample(clean.select.images, probe.held, generator)
    before, held_before = predictions(classifier, fit), predictions(classifier, held)
    fills = usable_fills(shape[0], probe.fills)
    coarse = fit[: probe.coarse_images]
    if probe.resolution != 1:
        coarse = smaller(coarse, probe.resolution)
    table = squares(probe, image_shape(coarse), len(fills))
    finalists = table[_best(probe, classifier, coarse, before, table, fills, clock)]
    if probe.resolution != 1:
        finalists = _enlarged(finalists, image_shape(coarse), shape)
    refined = _neighbours(probe, finalists, shape, fills)
    last = _last(probe, classifier, fit, before, refined, fills)
    less = _allowances(last, shape)
    hard, soft = _pass(classifier, fit, before, last, fills)
    value = hard + 0.1 * soft - less
    chosen = value.argmax(0)  # one square for every class
    classes = value.amax(0).argsort(descending=True, stable=True)[: probe.verified]
    held_hard, _ = _pass(classifier, held, held_before, last[chosen[classes]], fills)
    success, score = torch.zeros(2, classifier.classes, dtype=torch.float64)
    success[classes] = held_hard[torch.arange(len(classes)), classes]
    score[classes] = success[classes] - less[chosen[classes], 0]
    order = _ranked(score)
    top = order[0]
    fired = float(score[top]) > probe.threshold
    finds = [(top, row) for row in _ranked(value[:, top])[:3]]
    finds += [(k, int(chosen[k])) for k in order[1:3] if float(score[k]) > probe.threshold / 2]
    works, _ = _pass(classifier, held, held_before, last[[row for _, row in finds]], fills)
    recovered = [
        _recovered(probe, k, last[row], fills, shape, float(works[i, k]), int((held_before != k).sum()))
        for i, (k, row) in enumerate(finds)
    ]
    return Evidence(
        name=probe.name,
        ran=True,
        statistic=float(score[top]),
        threshold=probe.threshold,
        threshold_origin=probe.origin,
        fired=fired,
        target=top if fired else None,
        per_class=[float(value) for value in score],
        suspects=[k for k in order if float(score[k]) > probe.threshold][:3] or order[:1],
        recovered=recovered,
        facts={
            "squares": len(table) + len(refined),
            "verified_classes": classes.tolist(),
            "success": [float(value) for value in success],
            "second_statistic": float(score[order[1]]),
            **recovered[0].facts,
        },
    )


def squares(probe: SquareProbe, shape: Shape, fills: int) -> Tensor:
    """Every square of the first pass, int64 [S,4]: top, left, side, index of the fill."""
    unit = relative_size(shape)
    rows = []
    for side in dict.fromkeys(_pixels(s, unit, min(shape[1:])) for s in probe.sides):
        vertical, horizontal = shape[1] - side, shape[2] - side
        places = set()
        grid = [_axis(probe, last, unit) for last in (vertical, horizontal)]
        places |= {(top, left) for top in grid[0] for left in grid[1]}
        near = [_corner(last, probe.border, unit) for last in (vertical, horizontal)]
        places |= {(top, left) for top in near[0] for left in near[1]}
        rows += [(*place, side, fill) for place in sorted(places) for fill in range(fills)]
    return torch.tensor(rows, dtype=torch.long)


def _enlarged(table: Tensor, small: Shape, shape: Shape) -> Tensor:
    """Squares of reduced images on whole ones."""
    side = (table[:, SIDE] * relative_size(shape) / relative_size(small)).round()
    found = [
        (table[:, i] * (shape[1 + i] / small[1 + i])).round().clamp(max=shape[1 + i] - side)
        for i in (TOP, LEFT)
    ]
    return torch.stack([*found, side, table[:, FILL]], 1).long()


def _axis(probe: SquareProbe, last: int, unit: float) -> list[int]:
    step = max(1, round(probe.step * unit))
    start = min(round(probe.offset * unit), last)
    return sorted({*range(start, last + 1, step), last})


def _best(
    probe: SquareProbe,
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    table: Tensor,
    fills: list[str],
    clock: Clock,
) -> Tensor:
    """Rows of ``table`` to refine, a third each: the best of every class, classes in order; the best of
    all by probability; the best of all by how far they lift the log-odds of some class beyond what
    other squares do to it, which a square that covers a trigger in part does before it flips an image."""
    clear = _log_odds(classifier.logits(images))
    soft, lift = [], []
    for logits in _logits(classifier, images, table, fills, clock):
        soft.append(over_others(torch.nan_to_num(logits.double().softmax(2)), before[: len(images)]))
        lift.append((_log_odds(logits) - clear).mean(1).cpu())
    probable, lifted = torch.cat(soft), torch.cat(lift)
    probable = probable - _allowances(table, image_shape(images))
    median = lifted.quantile(0.5, dim=0)
    outlying = (lifted - median) / (lifted - median).abs().quantile(0.5, dim=0).clamp_min(1e-3)
    third = max(1, probe.finalists // 3)
    found: dict[int, None] = {}
    best_of_each = probable.argmax(0)[probable.amax(0).argsort(descending=True, stable=True)]
    for order in (
        best_of_each,
        probable.amax(1).argsort(descending=True),
        outlying.amax(1).argsort(descending=True),
    ):
        fresh = dict.fromkeys(row for row in order.tolist() if row not in found)
        found |= dict.fromkeys(list(fresh)[:third])
    return torch.tensor(list(found))


def _neighbours(probe: SquareProbe, finalists: Tensor, shape: Shape, fills: list[str]) -> Tensor:
    """The finalists, and what lies half a step and a pixel aside, is a pixel larger or smaller, or has
    another fill."""
    unit = relative_size(shape)
    pixel, half = max(1, round(unit)), max(1, round(probe.step * unit / 2))
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


def _last(
    probe: SquareProbe,
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    table: Tensor,
    fills: list[str],
) -> Tensor:
    """The squares of the second pass that the last choice is made from: per class the three that send
    the most probability there, at most :data:`LAST` squares."""
    few = images[: probe.refine_images]
    hard, soft = _pass(classifier, few, before[: len(few)], table, fills)
    value = hard + soft - _allowances(table, image_shape(images))
    order = value.argsort(dim=0, descending=True, stable=True)[:3]
    ranked = value.amax(0).argsort(descending=True, stable=True)
    return table[list(dict.fromkeys(order[:, ranked].flatten().tolist()))[:LAST]]


def _logits(
    classifier: Classifier, images: Tensor, table: Tensor, fills: list[str], clock: Clock | None = None
) -> Iterator[Tensor]:
    """Logits under the squares of one chunk of ``table`` after the other, [S',N,K]."""
    x = classifier.as_float(images)
    most = min(512, 2 * classifier.batch)
    chunks = table.split(max(1, most // len(images)))
    for number, chunk in enumerate(chunks):
        if clock is not None:
            clock.tick(number, len(chunks))
        stamped = stamp_table(x, chunk, fills, image_shape(images))
        yield classifier.logits(stamped, batch=most).reshape(len(chunk), len(images), -1)
    if clock is not None:
        clock.tick(len(chunks), len(chunks))


def _pass(
    classifier: Classifier, images: Tensor, before: Tensor, table: Tensor, fills: list[str]
) -> tuple[Tensor, Tensor]:
    """Share of flips and mean probability, float64 [S,K], over the images that are not of the class."""
    hard, soft = [], []
    for logits in _logits(classifier, images, table, fills):
        hard.append(over_others(F.one_hot(logits.argmax(2), classifier.classes), before))
        soft.append(over_others(torch.nan_to_num(logits.double().softmax(2)), before))
    return torch.cat(hard), torch.cat(soft)


def _recovered(
    probe: SquareProbe, target: int, row: Tensor, fills: list[str], shape: Shape, success: float, count: int
) -> Recovered:
    top, left, side, fill = (int(value) for value in row)
    canvas, mask = square(shape, top, left, side, fills[fill])
    facts = {
        "success": success,
        "images": count,
        "top": top,
        "left": left,
        "side": side,
        "fill": fills[fill],
        "detector": probe.name,
    }
    return Recovered(Square.family, target, {"canvas": canvas, "mask": mask}, facts)


def _ranked(values: Tensor) -> list[int]:
    order: list[int] = values.argsort(descending=True, stable=True).tolist()
    return order


def _allowances(table: Tensor, shape: Shape) -> Tensor:
    """:func:`allowance` of every row, as a column."""
    return allowance(table[:, SIDE].double() ** 2 / (shape[1] * shape[2]))[:, None]


def _log_odds(logits: Tensor) -> Tensor:
    """log p / (1 - p) of every class, float64, finite."""
    p = torch.nan_to_num(logits.double()).log_softmax(-1)
    return p - torch.log1p(-p.exp().clamp(max=1 - 1e-9))


def stamp_table(images: Tensor, table: Tensor, fills: list[str], shape: Shape) -> Tensor:
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
    stamped = torch.where(inside[:, None, None], colour[:, None], images[None])
    return stamped.flatten(0, 1)


def _two_colours(name: str, channels: int) -> Tensor:
    """Colours of even and odd cells, float32 [2,C]; equal where the fill is constant."""
    values = FILLS[name]
    if is_checker(name):
        return torch.tensor(values)[:, None].expand(2, channels)
    return torch.tensor(values if channels == 3 else values[:1]).expand(channels).expand(2, channels)


def _pixels(side: int, unit: float, limit: int) -> int:
    return min(max(1, round(side * unit)), limit)


def _corner(last: int, border: int, unit: float) -> list[int]:
    step = max(1, round(unit))
    near = {min(i * step, last) for i in range(border)}
    return sorted(near | {last - value for value in near})
