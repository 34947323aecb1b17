"""Every class and place at once, by signs of gradients; what lags is dropped twice."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import ahead, begun, image_shape
from wiper_cli.detectors.effort import Extent, Plan, beginning, reduced
from wiper_cli.detectors.evidence import Clock, Evidence, judged
from wiper_cli.detectors.patch_inversion import PatchInversion
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Patch, Recovered, relative_size

#: A sign step moves a pixel by this share of its range at the beginning of a stage and by so much less at its end.
STEP, LAST_STEP, MOMENTUM = 0.23, 0.03, 0.7


def plan(settings: PatchInversion, extent: Extent) -> Plan:
    """Both passes for every image of every step, and what is scored."""
    tried, known, forward, backward = beginning(settings, extent)
    height, width = reduced(extent, settings.resolution)
    share = height * width / (extent.height * extent.width)
    closely, places = min(settings.closely, tried), settings.places**2
    patches = tried * places, _further(settings, tried) * min(settings.kept, places), closely
    each = [p * s * i for p, s, i in zip(patches, settings.steps, settings.images, strict=True)]
    late = closely * settings.images[2] * _before(settings)
    both = round(share * (each[0] + each[1] + late) + each[2] - late)
    how = {"places": places, "steps": sum(settings.steps), "side": min(height, width), "closely": closely}
    return Plan(settings.name, tried, forward + both + closely * known[1], backward + both, how, known)


def _further(settings: PatchInversion, classes: int) -> int:
    """Of so many classes those that go on after the first stage."""
    return min(classes, max(settings.closely, (classes + 1) // 2)) if settings.lean else classes


def _before(settings: PatchInversion) -> int:
    """Steps of the last stage on reduced images."""
    return 2 * settings.steps[2] // 3 if settings.lean else 0


@dataclass
class Patches:
    """``pixels`` float32 [P,C,h,w] in 0..1 of patches with their upper left corner at ``corner`` int64 [P,2], each for
    the class ``target`` int64 [P], with the ``loss`` it has, float32 [P]."""

    pixels: Tensor
    corner: Tensor
    target: Tensor
    loss: Tensor

    def __getitem__(self, rows: Tensor) -> "Patches":
        return Patches(self.pixels[rows], self.corner[rows], self.target[rows], self.loss[rows])

    def stamp(self, images: Tensor, member: Tensor, pixels: Tensor | None = None) -> Tensor:
        """``images`` float32 [N,C,H,W] with the patch ``member`` int64 [N] on each, differentiable in ``pixels``."""
        shown = (self.pixels if pixels is None else pixels)[member]
        height, width = shown.shape[2:]
        corner = self.corner[member]
        row = corner[:, 0, None, None] + torch.arange(height, device=corner.device)[:, None]
        column = corner[:, 1, None, None] + torch.arange(width, device=corner.device)
        which = torch.arange(len(images), device=corner.device)[:, None, None]
        return (
            images.permute(0, 2, 3, 1)
            .index_put((which, row, column), shown.permute(0, 2, 3, 1))
            .permute(0, 3, 1, 2)
        )

    def best(self, count: int) -> Tensor:
        """Rows of the ``count`` patches of every class with the least loss, int64."""
        order = self.loss.argsort(stable=True)
        own = self.target[order]
        before = torch.stack([(own[:i] == own[i]).sum() for i in range(len(own))])
        return order[before < count]

    def enlarged(self, ratio: float, side: int, last: Tensor) -> "Patches":
        """For images of ``ratio`` times the size, with the given side and no corner beyond ``last`` int64 [2]."""
        pixels = F.interpolate(self.pixels, (side, side), mode="nearest-exact")
        corner = torch.minimum((self.corner * ratio).round().long(), last.to(self.corner.device))
        return replace(self, pixels=pixels, corner=corner)


def look(settings: PatchInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Three stages on the fit part, shares on images of select."""
    generator = torch.Generator().manual_seed(seed)
    begin = begun(settings, classifier, clean, generator)
    fit, seen, before, tried = begin.fit, begin.seen, begin.before, begin.tried
    whole = image_shape(fit)
    found = _drawn(settings, tried, image_shape(seen), generator, classifier.device)
    found = _improved(settings, 0, classifier, seen, before, found, clock, generator)
    first = found.best(settings.kept)
    if settings.lean:
        ahead_of_others = list(dict.fromkeys(found.target[first].tolist()))[: _further(settings, len(tried))]
        first = first[torch.isin(found.target[first].cpu(), torch.tensor(ahead_of_others)).to(first.device)]
    found = found[first]
    found = _improved(settings, 1, classifier, seen, before, found, clock, generator)
    found = found[found.best(1)]
    found = found[found.loss.argsort(stable=True)[: settings.closely]]
    early = range(_before(settings))
    if early:
        found = _improved(settings, 2, classifier, seen, before, found, clock, generator, early)
    if seen is not fit:
        side = _side(settings, whole)
        last = torch.tensor([whole[1] - side, whole[2] - side])
        found = found.enlarged(whole[1] / seen.shape[2], side, last)
    late = range(len(early), settings.steps[2])
    found = _improved(settings, 2, classifier, fit, before, found, clock, generator, late)
    share = [_share(classifier, begin.held, begin.held_before, found, i) for i in range(len(found.target))]
    order = sorted(range(len(share)), key=lambda i: (-share[i][0], float(found.loss[i])))
    targets = found.target.tolist()
    per_class = [0.0] * classifier.classes
    for i, k in enumerate(targets):
        per_class[k] = share[i][0]
    top = order[0]
    usual = share[order[1]][0] if order[1:] else 0.0
    statistic = ahead(share[top][0], usual)
    return judged(
        settings,
        statistic,
        target=targets[top],
        per_class=per_class,
        suspects=[targets[top]],
        recovered=[_recovered(found, top, whole, *share[top])],
        facts={
            "success": share[top][0],
            "next_success": usual,
            "scored": targets,
            **({"screened": tried} if len(tried) < classifier.classes else {}),
        },
    )


def _side(settings: PatchInversion, shape: tuple[int, int, int]) -> int:
    return max(1, min(*shape[1:], round(settings.side * relative_size(shape))))


def _drawn(
    settings: PatchInversion,
    classes: list[int],
    shape: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device,
) -> Patches:
    """One patch for every class at every place, each pixel black or white in every channel."""
    side = _side(settings, shape)
    rows, columns = (torch.linspace(0, size - side, settings.places).round().long() for size in shape[1:])
    corner = torch.cartesian_prod(rows, columns)
    count = len(classes) * len(corner)
    pixels = torch.randint(0, 2, (count, shape[0], side, side), generator=generator).float()
    target = torch.tensor(classes).repeat_interleave(len(corner))
    return Patches(
        pixels.to(device),
        corner.repeat(len(classes), 1).to(device),
        target.to(device),
        torch.zeros(count, device=device),
    )


def _improved(
    settings: PatchInversion,
    stage: int,
    classifier: Classifier,
    images: Tensor,
    before: Tensor,
    found: Patches,
    clock: Clock,
    generator: torch.Generator,
    part: range | None = None,
) -> Patches:
    """The patches after the steps of one stage, or of a ``part`` of it, with the mean cross-entropy to their class,
    smoothed over steps."""
    steps, each, device = settings.steps[stage], settings.images[stage], classifier.device
    others = [(before != k).nonzero().flatten().cpu() for k in found.target.tolist()]
    member = torch.tensor([i for i, rows in enumerate(others) if len(rows)], dtype=torch.long)
    member = member.repeat_interleave(each)
    momentum, loss = torch.zeros_like(found.pixels), torch.full_like(found.loss, torch.inf)
    part = range(steps) if part is None else part
    for step in part:
        drawn = torch.cat(
            [rows[torch.randint(len(rows), (each,), generator=generator)] for rows in others if len(rows)]
        )
        pixels = found.pixels.clone().requires_grad_(True)
        now = torch.zeros_like(loss)
        for some in torch.arange(len(member)).split(classifier.batch):
            own = member[some].to(device)
            x = classifier.as_float(images[drawn[some].to(images.device)])
            logits = classifier.rough(found.stamp(x, own, pixels))
            value = F.cross_entropy(logits, found.target[own], reduction="none") / each
            value.sum().backward()
            now.index_add_(0, own, value.detach())
        with torch.no_grad():
            gradient = torch.nan_to_num(torch.zeros_like(pixels) if pixels.grad is None else pixels.grad)
            size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            momentum = MOMENTUM * momentum + gradient / size
            rate = STEP + (LAST_STEP - STEP) * step / steps
            found = replace(found, pixels=(found.pixels - rate * momentum.sign()).clamp(0, 1))
            now = torch.nan_to_num(now, nan=torch.inf)
            loss = now if step == part[0] else 0.5 * loss + 0.5 * now
        clock.tick(sum(settings.steps[:stage]) + step + 1, sum(settings.steps))
    return replace(found, loss=loss)


def _share(
    classifier: Classifier, images: Tensor, before: Tensor, found: Patches, row: int
) -> tuple[float, int]:
    """Share of the images of other classes that patch ``row`` sends to its class, and how many they are."""
    target = int(found.target[row])
    others = images[(before != target).to(images.device)]
    if not len(others):
        return 0.0, 0
    hits = 0
    for chunk in others.split(classifier.batch):
        x = classifier.as_float(chunk)
        stamped = found.stamp(x, torch.full((len(x),), row, device=x.device))
        hits += int((classifier.logits(stamped, classifier.batch).argmax(1) == target).sum())
    return hits / len(others), len(others)


def _recovered(
    found: Patches, row: int, shape: tuple[int, int, int], success: float, images: int
) -> Recovered:
    canvas, mask = torch.zeros(shape), torch.zeros(1, *shape[1:])
    top, left = found.corner[row].tolist()
    pixels = found.pixels[row].detach().cpu()
    place = (slice(None), slice(top, top + pixels.shape[1]), slice(left, left + pixels.shape[2]))
    canvas[place], mask[place] = pixels, 1.0
    facts = {"success": success, "images": images, "detector": PatchInversion.name}
    return Recovered(Patch.family, int(found.target[row]), {"canvas": canvas, "mask": mask}, facts)
