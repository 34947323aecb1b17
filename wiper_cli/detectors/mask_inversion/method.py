"""The same search for every class on the fit part; shares of images of select under as many cells of each mask."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import Flips, begun, concluded, flips, image_shape, leading
from wiper_cli.detectors.effort import Extent, Plan, beginning, comparing, halving, reduced
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.detectors.mask_inversion import MaskInversion
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Patch

#: Cells of 1,024 that masks are cut to: the first at which the next best class leaves so many images.
KEPT, LEAVES = (16, 10, 6, 4, 2), 0.5
RATE, BETAS = 0.1, (0.5, 0.9)
#: The price of a cell at first, its bounds, the factor by which it rises where the class is reached, by a smoothed
#: share of images, and falls where not.
PRICE, BOUNDS, FACTOR, REACHED = 0.02, (1e-4, 1.0), 1.15, 0.9
#: Before the sigmoid: what all masks begin near.
BEGINNING = -2.0


def plan(settings: MaskInversion, extent: Extent) -> Plan:
    """Both passes for every image of every step, and what is scored."""
    tried, known, forward, backward = beginning(settings, extent)
    height, width = reduced(extent, settings.resolution)
    share = height * width / (extent.height * extent.width)
    both = round(share * settings.per_target * sum(_going(settings, tried)))
    scores = comparing(settings, min(settings.scored, tried), len(KEPT), extent)
    how = {"steps": settings.steps, "images": settings.per_target, "side": min(height, width)}
    return Plan(settings.name, tried, forward + both + scores, backward + both, how, known)


def look(settings: MaskInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Mask and colours of every class, by gradients."""
    generator = torch.Generator().manual_seed(seed)
    begin = begun(settings, classifier, clean, generator)
    tried = begin.tried
    mask, colour, left = _searched(settings, classifier, begin.seen, begin.before, tried, clock, generator)
    close = _smallest(mask, left, settings.scored)

    def cut(kept: float, images: Tensor) -> Patch:
        shape = image_shape(images)
        return Patch({"canvas": _spread(colour, shape), "mask": _spread(_cut(mask, kept), shape)})

    def shares(kept: float) -> dict[int, Flips]:
        pool = cut(kept, begin.shown)
        return {i: flips(classifier, begin.shown, begin.held_before, pool, i, tried[i]) for i in close}

    first = leading(KEPT, shares, LEAVES)
    return concluded(settings, classifier, begin, first, "cells", lambda kept: cut(kept, begin.held))


def _going(settings: MaskInversion, classes: int) -> list[int]:
    """How many of ``classes`` go on at each step."""
    least = settings.scored if settings.lean else classes
    return halving(classes, settings.steps, least, settings.steps // 3, 2 * settings.steps // 3)


def _smallest(mask: Tensor, of: list[int], count: int) -> list[int]:
    """The ``count`` members in ``of`` with the smallest masks [T,1,h,w]."""
    size = mask.sum((1, 2, 3)).tolist()
    return sorted(of, key=lambda i: size[i])[:count]


def _searched(
    settings: MaskInversion,
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    targets: list[int],
    clock: Clock,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[int]]:
    """Of every target mask [T,1,h,w] and colours [T,C,h,w], float32 in 0..1, in cells; members that were not dropped
    on the way."""
    device, each = classifier.device, settings.per_target
    channels, *side = image_shape(images)
    ratio = min(1.0, settings.cells / min(side))
    cells = [max(1, round(one * ratio)) for one in side]
    count = len(targets)
    mask = BEGINNING + 0.1 * torch.randn((count, 1, *cells), generator=generator)
    colour = torch.randn((count, channels, *cells), generator=generator)
    leaves = [value.to(device).requires_grad_(True) for value in (mask, colour)]
    optimizer = torch.optim.Adam(leaves, RATE, BETAS)
    price = torch.full((count,), PRICE, device=device)
    reached = torch.zeros(count, device=device)
    others = [(before != k).nonzero().flatten().cpu() for k in targets]
    alive = torch.tensor([i for i, rows in enumerate(others) if len(rows)], dtype=torch.long)
    going = _going(settings, len(alive))
    left = list(range(count))
    for step in range(settings.steps):
        if going[step] < len(alive):
            left = sorted(_smallest(torch.sigmoid(leaves[0].detach()), alive.tolist(), going[step]))
            alive = torch.tensor(left)
        clock.tick(step, settings.steps)
        now = torch.zeros(count, device=device)
        for some in alive.split(max(1, classifier.batch // each)):
            drawn = [
                others[i][torch.randint(len(others[i]), (each,), generator=generator)] for i in some.tolist()
            ]
            x = classifier.as_float(images[torch.cat(drawn).to(images.device)])
            member = some.to(device).repeat_interleave(each)
            goal = torch.tensor(targets)[some].to(device).repeat_interleave(each)
            shown, over = (
                _spread(torch.sigmoid(leaf[some.to(device)]), (channels, *side)) for leaf in leaves
            )
            shown, over = shown.repeat_interleave(each, 0), over.repeat_interleave(each, 0)
            logits = classifier.rough(x + shown * (over - x))
            loss = F.cross_entropy(logits, goal, reduction="none") / each
            loss.sum().backward()
            now.index_add_(0, member, (logits.argmax(1) == goal).float() / each)
        torch.sum(price * torch.sigmoid(leaves[0]).sum((1, 2, 3))).backward()
        for leaf in leaves:
            assert leaf.grad is not None
            leaf.grad.nan_to_num_()
        optimizer.step()
        optimizer.zero_grad()
        reached = 0.7 * reached + 0.3 * now
        price = torch.where(reached > REACHED, price * FACTOR, price / FACTOR).clamp(*BOUNDS)
    clock.tick(settings.steps, settings.steps)
    found = [torch.sigmoid(leaf.detach()) for leaf in leaves]
    return found[0], found[1], left


def _spread(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[T,·,h,w] in cells → [T,·,H,W] in pixels."""
    return F.interpolate(values, tuple(shape[1:]), mode="nearest-exact")


def _cut(mask: Tensor, kept: float) -> Tensor:
    """1.0 for the largest cells of each mask [T,1,h,w], ``kept`` of 1,024, else 0.0."""
    flat = mask.flatten(1)
    top = flat.topk(max(1, round(kept * flat.shape[1] / 1024)), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, top, 1.0).reshape(mask.shape)
