"""The same search for every class on the fit part, shares of images of select at the strongest amplitude that tells."""

from dataclasses import replace

import torch

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.common import Flips, Pace, begun, concluded, flips, image_shape, invert, leading
from wiper_cli.detectors.effort import Extent, Plan, beginning, comparing, halving, reduced
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Additive

#: What gives way first is judged by how far the others have come with the same work: those that are scored are never
#: dropped, and in the full search none is.
PACE = Pace(first=0.25, last=0.0, momentum=0.8, least=None)
#: Shares of the bound at which patterns are compared: the first at which the next best class leaves so many images.
AMPLITUDES, LEAVES = (1.0, 0.5, 0.25), 0.25


def plan(settings: AdditiveInversion, extent: Extent) -> Plan:
    """Both passes for every image of every step, and what is scored."""
    tried, known, forward, backward = beginning(settings, extent)
    height, width = reduced(extent, settings.resolution)
    share = height * width / (extent.height * extent.width)
    steps, least = settings.steps, settings.scored if settings.lean else tried
    both = round(share * settings.per_target * sum(halving(tried, steps, least, steps // 3, 2 * steps // 3)))
    scores = comparing(settings, min(settings.scored, tried), len(AMPLITUDES), extent)
    how = {"steps": settings.steps, "images": settings.per_target, "side": min(height, width)}
    return Plan(settings.name, tried, forward + both + scores, backward + both, how, known)


def look(
    settings: AdditiveInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int
) -> Evidence:
    """The pattern of every class, by gradients."""
    generator = torch.Generator().manual_seed(seed)
    begin = begun(settings, classifier, clean, generator)
    seen, tried = begin.seen, begin.tried
    start = Additive.random(len(tried), image_shape(seen), generator, bound=settings.bound)
    loss, pool = invert(
        classifier, seen, begin.before, start.to(classifier.device), tried, settings.per_target, settings.steps,
        clock, generator, pace=replace(PACE, least=settings.scored if settings.lean else None),
    )  # fmt: skip
    assert isinstance(pool, Additive)
    close = sorted(range(len(tried)), key=lambda i: loss[i])[: settings.scored]

    def shares(amplitude: float) -> dict[int, Flips]:
        found = pool.fainter(amplitude)
        return {i: flips(classifier, begin.shown, begin.held_before, found, i, tried[i]) for i in close}

    first = leading(AMPLITUDES, shares, LEAVES)

    def whole(amplitude: float) -> Additive:
        found = pool.fainter(amplitude)
        return found if begin.shown is begin.held else found.resized(*begin.held.shape[2:])

    return concluded(settings, classifier, begin, first, "amplitude", whole)
