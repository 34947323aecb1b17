"""Three passes over squares: all of them on few images, the neighbours of the best, and the choice on whole images."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import asked, image_shape, over_others, smaller
from wiper_cli.detectors.effort import Extent, Plan, reduced
from wiper_cli.detectors.evidence import Clock, Evidence, judged
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.detectors.squares import allowances, answers, enlarged, neighbours, recovered, squares
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import usable_fills

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
    third = max(1, probe.finalists // 3)
    around = len(neighbours(probe, _MIDDLE * height // 32, (extent.channels, height, width), fills))
    near = (2 * third + min(third, extent.classes)) * around
    fit, held = min(probe.images, extent.fit), min(probe.held, extent.select)
    coarse, refine = min(probe.coarse_images, extent.fit), min(probe.refine_images, extent.fit)
    searching = share * (coarse * (len(table) + 1) + refine * near)
    choosing = fit + (share if probe.lean else 1) * fit * min(LAST, 3 * extent.classes)
    scores = held * (1 + min(probe.verified, extent.classes) + FINDS)
    how = {"squares": len(table), "images": coarse, "side": min(height, width), "refined": near}
    return Plan(probe.name, extent.classes, round(searching + choosing + scores), 0, how, (fit, held))


def look(probe: SquareProbe, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Chooses on the fit part, scores the best squares on images of select."""
    generator = torch.Generator().manual_seed(seed)
    shape = image_shape(clean.fit.images)
    fit, before = asked(classifier, clean.fit.images, probe.images, generator)
    held, held_before = asked(classifier, clean.select.images, probe.held, generator)
    fills = usable_fills(shape[0], probe.fills)
    few = fit if probe.lean else fit[: max(probe.coarse_images, probe.refine_images)]
    if probe.resolution != 1:
        few = smaller(few, probe.resolution)
    small = image_shape(few)
    table = squares(probe, small, len(fills))
    finalists = table[_best(probe, classifier, few[: probe.coarse_images], before, table, fills, clock)]
    refined = neighbours(probe, finalists, small, fills)
    last = _last(classifier, few[: probe.refine_images], before, refined, fills)
    reduced_last = last
    if probe.resolution != 1:
        last = enlarged(last, small, shape)
    less = allowances(last, shape)
    images, table_shown = (few, reduced_last) if probe.lean else (fit, last)
    hard, soft = _pass(classifier, images, before, table_shown, fills, rough=True)
    value = hard + 0.1 * soft - less
    chosen = value.argmax(0)  # one square for every class
    classes = value.amax(0).argsort(descending=True, stable=True)[: probe.verified]
    held_hard, _ = _pass(classifier, held, held_before, last[chosen[classes]], fills)
    success, score = torch.zeros(2, classifier.classes, dtype=torch.float64)
    success[classes] = held_hard[torch.arange(len(classes)), classes]
    score[classes] = success[classes] - less[chosen[classes], 0]
    order = _ranked(score)
    top = order[0]
    finds = [(top, row) for row in _ranked(value[:, top])[:3]]
    finds += [(k, int(chosen[k])) for k in order[1:3] if float(score[k]) > probe.threshold / 2]
    if probe.lean and float(score[top]) <= probe.threshold / 2:
        finds, works = [(top, int(chosen[top]))], success[None]
    else:
        works, _ = _pass(classifier, held, held_before, last[[row for _, row in finds]], fills)
    handed_on = [
        recovered(
            k, last[row], fills, shape, _facts(probe, float(works[i, k]), int((held_before != k).sum()))
        )
        for i, (k, row) in enumerate(finds)
    ]
    return judged(
        probe,
        float(score[top]),
        target=top,
        per_class=[float(value) for value in score],
        suspects=[k for k in order if float(score[k]) > probe.threshold][:3] or order[:1],
        recovered=handed_on,
        facts={
            "squares": len(table) + len(refined),
            "verified_classes": classes.tolist(),
            "success": [float(value) for value in success],
            "second_statistic": float(score[order[1]]),
            **handed_on[0].facts,
        },
    )


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
    clear = _log_odds(classifier.logits(images, rough=True))
    soft, lift = [], []
    for logits in answers(classifier, images, table, fills, clock, rough=True):
        soft.append(over_others(torch.nan_to_num(logits.double().softmax(2)), before[: len(images)]))
        lift.append((_log_odds(logits) - clear).mean(1).cpu())
    probable, lifted = torch.cat(soft), torch.cat(lift)
    probable = probable - allowances(table, image_shape(images))
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


def _last(
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    table: Tensor,
    fills: list[str],
) -> Tensor:
    """The squares of the second pass that the last choice is made from: per class the three that send
    the most probability there, at most :data:`LAST` squares."""
    hard, soft = _pass(classifier, images, before[: len(images)], table, fills, rough=True)
    value = hard + soft - allowances(table, image_shape(images))
    order = value.argsort(dim=0, descending=True, stable=True)[:3]
    ranked = value.amax(0).argsort(descending=True, stable=True)
    return table[list(dict.fromkeys(order[:, ranked].flatten().tolist()))[:LAST]]


def _pass(
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    table: Tensor,
    fills: list[str],
    rough: bool = False,
) -> tuple[Tensor, Tensor]:
    """Share of flips and mean probability, float64 [S,K], over the images that are not of the class."""
    hard, soft = [], []
    for logits in answers(classifier, images, table, fills, rough=rough):
        hard.append(over_others(F.one_hot(logits.argmax(2), classifier.classes), before))
        soft.append(over_others(torch.nan_to_num(logits.double().softmax(2)), before))
    return torch.cat(hard), torch.cat(soft)


def _facts(probe: SquareProbe, success: float, count: int) -> dict[str, Any]:
    return {"success": success, "images": count, "detector": probe.name}


def _ranked(values: Tensor) -> list[int]:
    order: list[int] = values.argsort(descending=True, stable=True).tolist()
    return order


def _log_odds(logits: Tensor) -> Tensor:
    """log p / (1 - p) of every class, float64, finite."""
    p = torch.nan_to_num(logits.double()).log_softmax(-1)
    return p - torch.log1p(-p.exp().clamp(max=1 - 1e-9))
