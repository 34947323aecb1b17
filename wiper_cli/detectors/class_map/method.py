"""Passes over squares on more and more images of every class, each keeping those whose map goes furthest."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.class_map import ClassMap
from wiper_cli.detectors.common import asked, at_resolution, image_shape, smaller
from wiper_cli.detectors.effort import Extent, Plan, reduced
from wiper_cli.detectors.evidence import CannotLookError, Clock, Evidence, judged
from wiper_cli.detectors.squares import (
    FILL,
    SIDE,
    allowances,
    answers,
    enlarged,
    neighbours,
    recovered,
    squares,
)
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import usable_fills

#: Classes with images in both parts, below which there is no map.
FEWEST_SOURCES = 2
#: Squares that the map is chosen from; most others that are handed on with it; the share that makes a square work.
LAST, HANDED_ON, WORKS = 8, 7, 0.5
#: A square of a 32x32 image with room on all sides.
_MIDDLE = torch.tensor([[12, 12, 4, 0]])


def plan(probe: ClassMap, extent: Extent) -> Plan:
    """All squares on an image of a few sources, the best and what lies near them on more of all, and what is scored."""
    height, width = reduced(extent, probe.resolution)
    share = height * width / (extent.height * extent.width)
    small = (extent.channels, height, width)
    fills = usable_fills(extent.channels, probe.fills)
    table = squares(probe, small, len(fills))
    sources = min(probe.sources, extent.classes)
    around = len(neighbours(probe, _MIDDLE * height // 32, small, fills))
    second = (min(probe.kept, len(table)) + probe.finalists * around) * _half(probe)
    searching = share * (len(table) * min(probe.first, sources) + sources * second)
    choosing = sources * (LAST * probe.per_source + (1 + HANDED_ON) * probe.held)
    known = min(probe.searched, extent.fit), min(probe.searched, extent.select)
    how = {"squares": len(table), "sources": sources, "side": min(height, width)}
    return Plan(probe.name, sources, round(searching + choosing) + sum(known), 0, how, known)


def look(probe: ClassMap, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Chooses square and map on the fit part, scores the map on images of select."""
    generator = torch.Generator().manual_seed(seed)
    shape = image_shape(clean.fit.images)
    searched, searched_as = asked(classifier, clean.fit.images, probe.searched, generator)
    scored, scored_as = asked(classifier, clean.select.images, probe.searched, generator)
    fit = _of_each(searched_as, probe.per_source, generator)
    held = _of_each(scored_as, probe.held, generator)
    both = [k for k in fit if k in held]
    if len(both) < FEWEST_SOURCES:
        raise CannotLookError("the network puts the images of one part or the other all in the same class")
    mixed = [both[i] for i in torch.randperm(len(both), generator=generator)]
    sources = sorted(mixed, key=lambda k: -min(len(fit[k]), len(held[k])))[: probe.sources]
    fills = usable_fills(shape[0], probe.fills)

    def values(table: Tensor, each: int, of: list[int], resolution: float = 1.0) -> Tensor:
        """Where ``each`` images of every source in ``of`` go, float64 [S, sources, classes]."""
        images = searched[torch.cat([fit[k][:each] for k in of])]
        if resolution != 1:
            images = smaller(images, resolution)
        counts = [len(fit[k][:each]) for k in of]
        return _where(classifier, images, table, fills, counts, clock if table is grid else None)

    few, small = sources[: probe.first], at_resolution(shape, probe.resolution)
    grid = squares(probe, small, len(fills))
    table = _best(values(grid, 1, few, probe.resolution), grid, few, probe.kept)
    flows = values(table, _half(probe), sources, probe.resolution)
    near = neighbours(probe, _best(flows, table, sources, probe.finalists), small, fills)
    flows = torch.cat([values(near, _half(probe), sources, probe.resolution), flows])
    tried = torch.cat([near, table])
    if probe.resolution != 1:
        tried = enlarged(tried, small, shape)
    last = _best(flows, tried, sources, LAST)
    reached, maps = _along(values(last, probe.per_source, sources), sources)
    best = int((reached - allowances(last, shape)[:, 0]).argmax())
    goals = maps[best]
    stays = torch.tensor(sources) == goals

    def following(flows: Tensor) -> Tensor:
        """Of every source the share that goes to its goal, float64 [S, sources]."""
        return flows[:, torch.arange(len(sources)), goals].masked_fill(stays, 0)

    shown = _apart(last[best], tried, following(flows).mean(1))
    images, counts = scored[torch.cat([held[k] for k in sources])], [len(held[k]) for k in sources]
    follows = following(_where(classifier, images, shown, fills, counts, hard=True))
    success = follows.mean(1)
    statistic = float(success[0] - allowances(shown[:1], shape)[0, 0])
    mapping = {k: goal for k, goal in sorted(zip(sources, goals.tolist(), strict=True)) if k != goal}
    fired = statistic > probe.threshold
    facts = {
        "map": mapping,
        "follows": follows[0].tolist(),
        "success": float(success[0]),
        "images": len(images),
    }
    per_class = torch.zeros(classifier.classes, dtype=torch.float64)
    per_class[sources] = follows[0]
    return judged(
        probe,
        statistic,
        mapping=mapping,
        per_class=per_class.tolist(),
        recovered=[
            recovered(
                int(goals[0]),
                row,
                fills,
                shape,
                {"success": float(share), "images": len(images), "detector": probe.name},
                mapping,
            )
            for row, share in zip(shown, success, strict=True)
            if fired and share >= WORKS
        ],
        facts=facts,
    )


def _apart(best: Tensor, tried: Tensor, worth: Tensor) -> Tensor:
    """``best`` and at most :data:`HANDED_ON` others of ``tried`` that work, int64 [S,4]: each has another fill than
    those before, or lies elsewhere. A network that answers to one square answers to its like, and what is to be
    unlearned or measured are they all."""
    chosen = [best]
    for i in worth.argsort(descending=True, stable=True).tolist():
        if worth[i] < WORKS or len(chosen) > HANDED_ON:
            break
        if all(_differs(tried[i], other) for other in chosen):
            chosen.append(tried[i])
    return torch.stack(chosen)


def _differs(one: Tensor, other: Tensor) -> bool:
    moved = (one[:SIDE] - other[:SIDE]).abs().amax() >= torch.maximum(one[SIDE], other[SIDE])
    return bool(moved or one[FILL] != other[FILL])


def _half(probe: ClassMap) -> int:
    return max(1, probe.per_source // 2)


def _of_each(before: Tensor, count: int, generator: torch.Generator) -> dict[int, Tensor]:
    """Places of at most ``count`` images of every class in ``before``, drawn at random."""
    order = torch.randperm(len(before), generator=generator)
    mixed = before.cpu()[order]
    return {int(k): order[mixed == k][:count] for k in mixed.unique()}


def _where(
    classifier: Classifier,
    images: Tensor,
    table: Tensor,
    fills: list[str],
    counts: list[int],
    clock: Clock | None = None,
    hard: bool = False,
) -> Tensor:
    """Mean of answers and probabilities (or, ``hard``, of answers alone) over the images of every source, which stand
    one source after the other in ``counts``, float64 [S, sources, K]."""
    found = []
    for logits in answers(classifier, images, table, fills, clock, rough=not hard):
        share = F.one_hot(logits.argmax(2), classifier.classes).double()
        if not hard:
            share = (share + torch.nan_to_num(logits.double().softmax(2))) / 2
        found.append(torch.stack([part.mean(1) for part in share.split(counts, 1)], 1).cpu())
    return torch.cat(found)


def _along(flows: Tensor, sources: list[int]) -> tuple[Tensor, Tensor]:
    """Of every square a map of ``sources`` to different classes, which takes the largest share first and then the
    next: the mean share that follows it, float64 [S], and its goals, int64 [S, sources]. A source that nothing else was
    left for is its own goal, with a share of 0. ``flows``: float64 [S, sources, K]."""
    left = flows.clone()
    rows = torch.arange(len(sources))
    left[:, rows, torch.tensor(sources)] = 0
    share, goals = (
        torch.zeros(len(flows), dtype=torch.float64),
        torch.zeros(flows.shape[:2], dtype=torch.long),
    )
    every = torch.arange(len(flows))
    for _ in sources:
        most, place = left.flatten(1).max(1)
        source, goal = place // left.shape[2], place % left.shape[2]
        share += most
        goals[every, source] = goal
        left[every, source] = -1
        left[every, :, goal] = -1
    return share / len(sources), goals


def _best(flows: Tensor, table: Tensor, sources: list[int], count: int) -> Tensor:
    """The ``count`` rows of ``table`` whose maps go furthest."""
    return table[_along(flows, sources)[0].argsort(descending=True, stable=True)[:count]]
