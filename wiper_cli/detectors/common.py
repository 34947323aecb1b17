"""What the detectors share: images, predictions, and universal inversion by gradients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.effort import (
    BRIEF_IMAGES,
    BRIEF_STEPS,
    SCREENED_ON,
    SLOPES_ON,
    Bar,
    Inversion,
    Screened,
    halving,
)
from wiper_cli.detectors.evidence import CannotLookError, Clock, Evidence, judged
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Additive, Pool, Shape
from wiper_cli.progress import silent


def image_shape(images: Tensor) -> Shape:
    """(C, H, W) of [N,C,H,W]."""
    _, channels, height, width = images.shape
    return channels, height, width


def sample(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` (or all, if fewer) of ``images``, drawn without replacement, in random order."""
    order = torch.randperm(len(images), generator=generator)[:count]
    return images[order]


def at_resolution(shape: Shape, resolution: float) -> Shape:
    """(C, H, W) of images reduced to ``resolution``, a share of the side."""
    return shape[0], round(shape[1] * resolution), round(shape[2] * resolution)


def smaller(images: Tensor, resolution: float) -> Tensor:
    """uint8 [N,C,H,W] at a share of the side, by averaging."""
    size = at_resolution(image_shape(images), resolution)[1:]
    chunks = [F.interpolate(chunk.float(), size, mode="area") for chunk in images.split(64)]
    return torch.cat(chunks).round().to(torch.uint8)


def asked(
    classifier: Classifier, images: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """As :func:`sample`, with the network's own classes, int64 [count] on its device; raises :class:`CannotLookError`
    on values that are not finite."""
    rows = torch.randperm(len(images), generator=generator)[:count]
    before = classifier.own(images, rows)
    if (before < 0).any():
        raise CannotLookError("the network gives values that are not finite on clean images")
    return images[rows], before.to(classifier.device)


@dataclass(frozen=True)
class Begun:
    """``fit`` to search and ``held`` to score on, uint8 [N,C,H,W], with the network's own classes; ``seen`` and
    ``shown``: the same, reduced where the search is; the classes ``tried``, in order."""

    fit: Tensor
    seen: Tensor
    before: Tensor
    held: Tensor
    shown: Tensor
    held_before: Tensor
    tried: list[int]


def begun(settings: Screened, classifier: Classifier, clean: Clean, generator: torch.Generator) -> Begun:
    """Images for a search, and all classes or, of many, those that a screening by the head puts first."""
    fit, before = asked(classifier, clean.fit.images, settings.searched, generator)
    held, held_before = asked(classifier, clean.select.images, settings.held, generator)
    tried = list(range(classifier.classes))
    if classifier.classes > settings.most_targets:
        ranked = screened_by_head(classifier, fit[:SCREENED_ON], generator)
        tried = sorted(ranked[: settings.most_targets].tolist())
    seen, shown = (
        part if settings.resolution == 1 else smaller(part, settings.resolution) for part in (fit, held)
    )
    return Begun(fit, seen, before, held, shown, held_before, tried)


def predictions(classifier: Classifier, images: Tensor) -> Tensor:
    """The network's own classes of images that are no part of the clean set, int64 [N]; raises as :func:`asked`."""
    logits = classifier.logits(images)
    if not torch.isfinite(logits).all():
        raise CannotLookError("the network gives values that are not finite on clean images")
    return logits.argmax(1)


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """Logit of ``target`` [N] minus the largest other; [N,K] → [N]."""
    own = logits.gather(1, target[:, None]).squeeze(1)
    return own - logits.scatter(1, target[:, None], -torch.inf).amax(1)


def over_others(values: Tensor, before: Tensor) -> Tensor:
    """Mean of [S,N,K] over the images whose prediction (int64 [N]) is another class, float64 [S,K], CPU."""
    others = F.one_hot(before, values.shape[2]) == 0
    return ((values * others).double().sum(1) / others.sum(0).clamp_min(1)).cpu()


def allowance(area: Tensor) -> Tensor:
    """What a stamp that covers this share of the image may move in an honest network: nothing up to a hundredth,
    then 0.1 for every further hundredth."""
    return 10 * (area - 0.01).clamp_min(0)


@dataclass(frozen=True)
class Flips:
    """Of ``count`` images that the network does not already give the class, the ``share`` sent to it."""

    share: float
    count: int


def flips(classifier: Classifier, images: Tensor, before: Tensor, pool: Pool, member: int, to: int) -> Flips:
    """Success of one transform on ``images`` (uint8 [N,C,H,W]); ``before``: their predictions."""
    others = images[(before != to).to(images.device)]
    if not len(others):
        return Flips(0.0, 0)
    hits = 0
    with torch.no_grad():
        for chunk in others.split(classifier.batch):
            x = classifier.as_float(chunk)
            index = torch.full((len(x),), member, dtype=torch.long, device=x.device)
            hits += int((classifier.logits(pool.stamp(x, index)).argmax(1) == to).sum())
    return Flips(hits / len(others), len(others))


@dataclass(frozen=True)
class Pace:
    """Of a search by sign steps: a step is ``first`` of the bound falling to ``last``. After a third of the steps the
    half of the targets with the larger loss stays as it is, after two thirds three quarters of them, but ``least`` go
    on, or, where that is ``None``, all: a class that gives way to a real trigger is far ahead by then."""

    first: float = 0.15
    last: float = 0.03
    momentum: float = 0.7
    least: int | None = 3


def invert(
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    pool: Pool,
    targets: Sequence[int],
    per_target: int,
    steps: int,
    clock: Clock,
    generator: torch.Generator,
    small: Tensor | None = None,
    pace: Pace = Pace(),
) -> tuple[list[float], Pool]:
    """Move member i of ``pool`` so that images of other classes go to ``targets[i]``.

    Sign steps down the cross-entropy, each on ``per_target`` images (uint8 [N,C,H,W]; ``before``: their
    predictions) drawn anew: a fixed few would be learned by heart.
    ``small``: the images reduced, on which the first two thirds of the steps work.
    Returns the loss of every target, smoothed over steps, and the pool for images of full size.
    """
    assert classifier.network is not None
    device, before = classifier.device, before.cpu()
    others = [(before != target).nonzero().flatten() for target in targets]
    alive = [i for i, rows in enumerate(others) if len(rows)]
    loss = [float("inf")] * len(targets)
    least = len(alive) if pace.least is None else pace.least
    going = halving(len(alive), steps, least, steps // 3, 2 * steps // 3)
    seen = images
    if small is not None:
        ratio = small.shape[2] / images.shape[2]
        seen, pool = small, pool.scaled(ratio)
    for step in range(steps):
        if going[step] < len(alive):
            alive = sorted(sorted(alive, key=lambda i: loss[i])[: going[step]])
        if small is not None and step == 2 * steps // 3:
            seen, pool = images, pool.scaled(1 / ratio)
        clock.tick(step, steps)
        for some in _chunks(alive, max(1, classifier.batch // per_target)):
            rows = torch.cat(
                [others[i][torch.randint(len(others[i]), (per_target,), generator=generator)] for i in some]
            )
            member = torch.tensor(some, device=device).repeat_interleave(per_target)
            goal = torch.tensor([targets[i] for i in some], device=device).repeat_interleave(per_target)
            z = classifier.rough(pool.stamp(classifier.as_float(seen[rows]), member))
            each = F.cross_entropy(z, goal, reduction="none").reshape(len(some), per_target).mean(1)
            each.sum().backward()
            for i, value in zip(some, each.detach().tolist(), strict=True):
                known = value if loss[i] == float("inf") else 0.5 * loss[i] + 0.5 * value
                loss[i] = known if known == known else float("inf")
        pool.sign_step(pace.first - (pace.first - pace.last) * step / max(steps - 1, 1), pace.momentum)
    clock.tick(steps, steps)
    return loss, pool


def first_order(classifier: Classifier, images: Tensor, pool: Pool, targets: Sequence[int]) -> Tensor:
    """Margin of ``targets[i]`` that member i reaches within its bounds by a linear estimate, float64 [T]."""
    assert classifier.network is not None
    x, device = classifier.as_float(images), classifier.device
    reached = torch.zeros(len(targets), dtype=torch.float64)
    for some in _chunks(range(len(targets)), max(1, classifier.batch // len(x))):
        member = torch.tensor(some, device=device).repeat_interleave(len(x))
        goal = torch.tensor([targets[i] for i in some], device=device).repeat_interleave(len(x))
        z = classifier.network(pool.stamp(x.repeat(len(some), 1, 1, 1), member)).float()
        margin = margins(z, goal).reshape(len(some), -1).mean(1)
        slopes = torch.autograd.grad(margin.sum(), pool.parameters)
        reached[some] += margin.detach().double().cpu()
        for leaf, slope in zip(pool.leaves.values(), slopes, strict=True):
            unit = pool.state[leaf.limit].flatten()[some] if leaf.limit else leaf.scale
            reached[some] += (unit * slope[some].flatten(1).abs().sum(1)).double().cpu()
    return torch.nan_to_num(reached, nan=-torch.inf)


def ahead(share: float, usual: float) -> float:
    """Of the images that a transform for the next best class leaves where they are, the share that this one moves; 0
    where the next best moves as many. ``share`` at least ``usual``, both in 0..1."""
    return 0.0 if usual >= share else 1 - (1 - share) / (1 - usual)


@dataclass(frozen=True)
class Lead:
    """Of transforms for several classes the one, ``member``, that moves the largest share of images: the ``statistic``
    is how far it is :func:`ahead` of the next, which moves the share ``usual``. ``shares``: of every member.
    ``strength``: at which they were compared."""

    strength: float
    member: int
    usual: float
    statistic: float
    shares: Mapping[int, Flips]


def leading(strengths: Sequence[float], shares: Callable[[float], dict[int, Flips]], leaves: float) -> Lead:
    """At the first of ``strengths`` at which the next best leaves the share ``leaves`` of the images; where none does,
    nothing is ahead. Of equals the first in ``shares`` leads."""
    for strength in strengths:
        found = shares(strength)
        order = sorted(found, key=lambda i: -found[i].share)
        best, usual = found[order[0]].share, found[order[1]].share if order[1:] else 0.0
        if 1 - usual >= leaves:
            return Lead(strength, order[0], usual, ahead(best, usual), found)
    return Lead(strength, order[0], usual, 0.0, found)


def concluded(
    settings: Bar,
    classifier: Classifier,
    begin: Begun,
    first: Lead,
    strength: str,
    whole: Callable[[float], Pool],
) -> Evidence:
    """What a comparison comes to. ``strength``: what it is called among the facts; ``whole``: the transforms at it, for
    whole images. A silent search recovers nothing: honest networks give way to as much."""
    target, success = begin.tried[first.member], first.shares[first.member]
    per_class = [0.0] * classifier.classes
    for i, one in first.shares.items():
        per_class[begin.tried[i]] = one.share
    recovered = []
    if first.statistic > settings.threshold:
        pool = whole(first.strength)
        if begin.shown is not begin.held:
            success = flips(classifier, begin.held, begin.held_before, pool, first.member, target)
        facts = {"success": success.share, "images": success.count, "detector": settings.name}
        recovered = [pool.recovered(first.member, target, facts)]
    return judged(
        settings,
        first.statistic,
        target=target,
        per_class=per_class,
        suspects=[target],
        recovered=recovered,
        facts={
            "success": first.shares[first.member].share,
            "next_success": first.usual,
            strength: first.strength,
            "scored": [begin.tried[i] for i in first.shares],
            **({"screened": begin.tried} if len(begin.tried) < classifier.classes else {}),
        },
    )


def _chunks(values: Sequence[int], size: int) -> list[list[int]]:
    return [list(values[i : i + size]) for i in range(0, len(values), size)]


def invert_and_score(
    classifier: Classifier,
    clean: Clean,
    family: type[Pool],
    bounds: Mapping[str, Any],
    settings: Inversion,
    clock: Clock,
    seed: int,
) -> Evidence:
    """One transform of ``family`` for every target, searched on fit, scored on images of select."""
    generator = torch.Generator().manual_seed(seed)
    shape = image_shape(clean.fit.images)
    fit, before = asked(classifier, clean.fit.images, settings.searched, generator)
    held, held_before = asked(classifier, clean.select.images, settings.held, generator)
    targets = list(settings.targets) or list(range(classifier.classes))
    facts: dict[str, Any] = {}
    if len(targets) > settings.most_targets:
        facts["screened_from"] = len(targets)
        if settings.by_head:
            ranked = screened_by_head(classifier, fit[:SCREENED_ON], generator).tolist()
            targets = sorted([k for k in ranked if k in set(targets)][: settings.most_targets])
        else:
            targets = screened(
                classifier, fit, before, family, bounds, targets, settings.most_targets, generator
            )
        facts["screened"] = targets
    pool = family.random(len(targets), shape, generator, **bounds).to(classifier.device)
    small = None if settings.resolution == 1 else smaller(fit, settings.resolution)
    loss, pool = invert(
        classifier, fit, before, pool, targets, settings.per_target, settings.steps, clock, generator, small
    )
    close = sorted(sorted(range(len(targets)), key=lambda i: loss[i])[: settings.scored])
    share = {targets[i]: flips(classifier, held, held_before, pool, i, targets[i]) for i in close}
    order = sorted(close, key=lambda i: (-share[targets[i]].share, loss[i]))
    best = order[0]
    target, found = targets[best], share[targets[best]]
    facts |= {"scored_images": found.count, "bounds": dict(bounds)}
    if len(close) < len(targets):
        facts["scored"] = [targets[i] for i in close]
    return judged(
        settings,
        found.share,
        target=target,
        per_class=[share[k].share if k in share else 0.0 for k in range(classifier.classes)],
        suspects=[targets[i] for i in order if share[targets[i]].share > settings.threshold][:3] or [target],
        recovered=[
            pool.recovered(
                i,
                targets[i],
                {
                    "success": share[targets[i]].share,
                    "images": share[targets[i]].count,
                    "detector": settings.name,
                },
            )
            for i in order[:3]
            if i == best or share[targets[i]].share > settings.threshold / 2
        ],
        facts=facts,
    )


def screened(
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    family: type[Pool],
    bounds: Mapping[str, Any],
    targets: Sequence[int],
    count: int,
    generator: torch.Generator,
) -> list[int]:
    """The ``count`` targets most worth an inversion. First, where there are more than ``4 * count``: those
    whose margin one gradient promises to raise furthest; then a search of 10 steps on 8 images each.
    Cheap, so it can lose a class: whoever uses it must say that it was done."""
    shape = image_shape(images)
    chosen = list(targets)
    if len(chosen) > 4 * count:
        pool = family.random(len(chosen), shape, generator, **bounds).to(classifier.device)
        gain = first_order(classifier, images[:SLOPES_ON], pool, chosen)
        chosen = [chosen[i] for i in gain.argsort(descending=True, stable=True)[: 4 * count].tolist()]
    pool = family.random(len(chosen), shape, generator, **bounds).to(classifier.device)
    quiet = Clock("screening", silent)
    loss, _ = invert(classifier, images, before, pool, chosen, BRIEF_IMAGES, BRIEF_STEPS, quiet, generator)
    return sorted(chosen[i] for i in sorted(range(len(chosen)), key=lambda i: loss[i])[:count])


def screened_by_head(classifier: Classifier, images: Tensor, generator: torch.Generator) -> Tensor:
    """All classes, int64 [K], the likeliest targets of a backdoor first, by passes over ``images`` (uint8 [N,C,H,W])
    alone: the margin over the nearest other class that the head can give a class while every unit stays in the
    range in which the images have it. Without a linear head: the margin that one gradient promises to a faint pattern.
    """
    if not has_units(classifier):
        few, targets = images[:SLOPES_ON], list(range(classifier.classes))
        pool = Additive.random(len(targets), image_shape(few), generator, bound=0.05).to(classifier.device)
        return first_order(classifier, few, pool, targets).argsort(descending=True, stable=True)
    features, _ = classifier.features(images, classifier.batch)
    weight, bias = (value.double().cpu() for value in classifier.head())
    low, high = features.double().cpu().aminmax(dim=0)
    middle, reach = weight @ ((low + high) / 2) + bias, weight * ((high - low) / 2)
    margin = middle[:, None] - middle[None, :] + torch.cdist(reach, reach, p=1)
    return margin.fill_diagonal_(torch.inf).amin(1).argsort(descending=True, stable=True)


def has_units(classifier: Classifier) -> bool:
    """Whether the inputs of a linear head can be had."""
    return classifier.model.head is not None and classifier.model.head.linear
