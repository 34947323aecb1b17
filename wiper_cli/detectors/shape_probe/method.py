"""Random draws on a few images, then hill climbing from the best of every class, each of them by itself."""

from collections.abc import Iterator

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import allowance, asked, image_shape, over_others, sample, smaller
from wiper_cli.detectors.effort import Extent, Plan, reduced
from wiper_cli.detectors.evidence import Clock, Evidence, judged
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.detectors.shape_probe.drawing import Stamps, children, draw
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Patch, Recovered

#: A stamp that sends fewer held-out images to the class than this share is not handed on.
WORKS = 0.5


def plan(probe: ShapeProbe, extent: Extent) -> Plan:
    """All draws on few images, every round of hill climbing, and what is scored."""
    classes = min(max(1, len(probe.targets[: probe.most_targets])) + probe.compared, extent.classes)
    held, images = min(probe.held, extent.select), min(probe.images, extent.fit)
    height, width = reduced(extent, probe.resolution)
    share = height * width / (extent.height * extent.width)
    climbing = classes * probe.rounds * probe.kept * (probe.children + 1) * images
    searching = round(share * (probe.drawn * min(probe.ranked, extent.fit) + climbing))
    known = min(probe.searched, extent.fit), held
    ranking, scored = 0, probe.kept
    if _ranks(probe):
        ranking, scored = round(share * classes * probe.kept * held), min(probe.handed_on, probe.kept)
    forward = sum(known) + searching + ranking + classes * scored * held
    how = {"drawn": probe.drawn, "kept": probe.kept, "rounds": probe.rounds, "side": min(height, width)}
    return Plan(probe.name, classes, forward, 0, how, known)


def look(probe: ShapeProbe, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Draws and climbs on the fit part, scores on images of select."""
    generator = torch.Generator().manual_seed(seed)
    fit, before = asked(classifier, clean.fit.images, probe.searched, generator)
    held, held_before = asked(classifier, clean.select.images, probe.held, generator)
    drawn = draw(image_shape(fit), probe.drawn, generator)
    if probe.resolution != 1:  # stamps fit images of any size
        fit = smaller(fit, probe.resolution)
    shown = smaller(held, probe.resolution) if _ranks(probe) else held
    few = fit[: probe.ranked]
    worth = torch.cat(
        [
            over_others(torch.nan_to_num(logits.softmax(2)), before[: len(few)])
            - allowance(part.area)[:, None]
            for part, logits in _passes(classifier, few, drawn, rough=True)
        ]
    )
    ranked = worth.amax(0).argsort(descending=True, stable=True).tolist()
    aimed = list(probe.targets[: probe.most_targets]) or ranked[:1]
    innocent = [k for k in ranked if k not in (*probe.targets, *aimed)][: probe.compared]
    score = torch.zeros(classifier.classes, dtype=torch.float64)
    recovered = []
    for number, k in enumerate([*aimed, *innocent]):
        first = drawn[worth[:, k].topk(min(probe.kept, len(drawn))).indices]
        clock.tick(number, len(aimed) + len(innocent))
        if probe.lean and number == len(aimed) and float(score[aimed].amax()) <= probe.threshold:
            innocent = []  # nothing can be ahead of them
            break
        best = _climbed(probe, classifier, fit[(before != k).to(fit.device)], first, k, generator)
        rest = (held_before != k).to(held.device)
        others = held[rest]
        if _ranks(probe):
            best = _ranked(classifier, shown[rest], best, k)[: probe.handed_on]
        success = _reached(classifier, others, best[:1], k)
        if not _ranks(probe) or float(success[0]) >= WORKS:
            success = torch.cat([success, _reached(classifier, others, best[1:], k)])
        best = best[: len(success)]
        score[k] = (success - allowance(best.area)).amax()
        order = success.argsort(descending=True, stable=True).tolist()
        working = [i for i in order if success[i] >= WORKS][: probe.handed_on]
        recovered += [_recovered(best, i, k, float(success[i]), others) for i in working]
    clock.tick(1, 1)
    usual = max([0.0, *(float(score[k]) for k in innocent)])
    top = max(aimed, key=lambda k: float(score[k]))
    statistic = float(score[top]) - usual
    return judged(
        probe,
        statistic,
        target=top,
        per_class=score.tolist(),
        suspects=[top],
        recovered=recovered,
        facts={"success": float(score[top]), "innocent_success": usual, "innocent": innocent},
    )


def _passes(
    classifier: Classifier, images: Tensor, stamps: Stamps, rough: bool = False
) -> Iterator[tuple[Stamps, Tensor]]:
    """Stamps in chunks, with their logits [S',N,K]."""
    x = classifier.as_float(images)
    most = min(512, 2 * classifier.batch)
    each = max(1, most // max(1, len(x)))
    for part in (stamps[i : i + each] for i in range(0, len(stamps), each)):
        yield part, classifier.logits(part.stamp(x), most, rough).reshape(len(part), len(x), -1)


def _reached(classifier: Classifier, images: Tensor, stamps: Stamps, k: int, rough: bool = False) -> Tensor:
    """Share of ``images`` that each stamp sends to class ``k``, float64 [S]."""
    if not len(images) or not len(stamps):
        return torch.zeros(len(stamps), dtype=torch.float64)
    answers = _passes(classifier, images, stamps, rough)
    return torch.cat([(logits.argmax(2) == k).double().mean(1).cpu() for _, logits in answers])


def _ranks(probe: ShapeProbe) -> bool:
    """Whether reduced held-out images tell which stamp is scored on whole ones."""
    return probe.lean and probe.resolution != 1


def _ranked(classifier: Classifier, images: Tensor, stamps: Stamps, k: int) -> Stamps:
    """The stamps, first the one that sends most of ``images`` to class ``k``."""
    worth = _reached(classifier, images, stamps, k, rough=True) - allowance(stamps.area)
    return stamps[worth.argsort(descending=True, stable=True)]


def _climbed(
    probe: ShapeProbe,
    classifier: Classifier,
    images: Tensor,
    best: Stamps,
    k: int,
    generator: torch.Generator,
) -> Stamps:
    """Every stamp after ``rounds`` choices between itself and changed copies, by the probability of class ``k`` on
    ``images`` (uint8 [N,C,H,W], of other classes) drawn anew for each round. After a third and two thirds of the rounds
    the worse half goes on from the places of the better."""
    if not len(images):
        return best
    for number in range(probe.rounds):
        some = sample(images, probe.images, generator)
        young = children(best, probe.children, generator)
        family = Stamps(_families(best.canvas, young.canvas), _families(best.mask, young.mask))
        found = [
            p.softmax(2)[:, :, k].double().mean(1).cpu()
            for _, p in _passes(classifier, some, family, rough=True)
        ]
        worth = (torch.nan_to_num(torch.cat(found)) - allowance(family.area)).reshape(len(best), -1)
        most, which = worth.max(1)
        best = family[torch.arange(len(best)) * worth.shape[1] + which]
        if number + 1 in (probe.rounds // 3, 2 * probe.rounds // 3):
            better = most.argsort(descending=True, stable=True)[: (len(best) + 1) // 2]
            best = best[better.repeat(2)[: len(best)]]
    return best


def _families(parents: Tensor, young: Tensor) -> Tensor:
    """Every parent, followed by its children."""
    return torch.cat([parents[:, None], young.unflatten(0, (len(parents), -1))], 1).flatten(0, 1)


def _recovered(stamps: Stamps, row: int, target: int, success: float, images: Tensor) -> Recovered:
    one = stamps[row : row + 1].enlarged(images.shape[2:])
    facts = {"success": success, "images": len(images), "detector": ShapeProbe.name}
    return Recovered(Patch.family, target, {"canvas": one.canvas[0], "mask": one.mask[0].float()}, facts)
