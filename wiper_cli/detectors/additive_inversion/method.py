"""The same search for every class on the fit part, shares of images of select at the strongest amplitude that tells."""

import torch

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.common import (
    Flips,
    Pace,
    begun,
    flips,
    image_shape,
    invert,
    leading,
    smaller,
)
from wiper_cli.detectors.effort import Extent, Plan, beginning, reduced
from wiper_cli.detectors.evidence import Clock, Evidence, judged
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Additive

#: No class is dropped: what gives way first is judged by how far the others have come with the same work.
PACE = Pace(first=0.25, last=0.0, momentum=0.8, drops=False)
#: Shares of the bound at which patterns are compared: the first at which the next best class leaves so many images.
AMPLITUDES, LEAVES = (1.0, 0.5, 0.25), 0.25


def plan(settings: AdditiveInversion, extent: Extent) -> Plan:
    """Both passes for every image of every step, and what is scored."""
    tried, known, forward, backward = beginning(settings, extent)
    height, width = reduced(extent, settings.resolution)
    share = height * width / (extent.height * extent.width)
    both = round(share * tried * settings.steps * settings.per_target)
    scores = len(AMPLITUDES) * min(settings.scored, tried) * known[1] if tried > 1 else 0
    if settings.resolution < 1:
        scores = round(share * scores) + known[1]
    how = {"steps": settings.steps, "images": settings.per_target, "side": min(height, width)}
    return Plan(settings.name, tried, forward + both + scores, backward + both, how, known)


def look(
    settings: AdditiveInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int
) -> Evidence:
    """The pattern of every class, by gradients."""
    generator = torch.Generator().manual_seed(seed)
    begin = begun(settings, classifier, clean, generator)
    seen, held, tried = begin.seen, begin.held, begin.tried
    shown = held if settings.resolution == 1 else smaller(held, settings.resolution)
    start = Additive.random(len(tried), image_shape(seen), generator, bound=settings.bound)
    loss, pool = invert(
        classifier, seen, begin.before, start.to(classifier.device), tried, settings.per_target, settings.steps,
        clock, generator, pace=PACE,
    )  # fmt: skip
    assert isinstance(pool, Additive)
    close = sorted(range(len(tried)), key=lambda i: loss[i])[: settings.scored]

    def shares(amplitude: float) -> dict[int, Flips]:
        found = pool.fainter(amplitude)
        return {i: flips(classifier, shown, begin.held_before, found, i, tried[i]) for i in close}

    first = leading(AMPLITUDES, shares, LEAVES)
    top, success = first.member, first.shares[first.member]
    per_class = [0.0] * classifier.classes
    for i, one in first.shares.items():
        per_class[tried[i]] = one.share
    recovered = []  # of a silent search what honest networks give way to, and no trigger
    if first.statistic > settings.threshold:
        found = pool.fainter(first.strength)
        if seen is not begin.fit:
            found = found.resized(*held.shape[2:])
            success = flips(classifier, held, begin.held_before, found, top, tried[top])
        facts = {"success": success.share, "images": success.count, "detector": settings.name}
        recovered = [found.recovered(top, tried[top], facts)]
    return judged(
        settings,
        first.statistic,
        target=tried[top],
        per_class=per_class,
        suspects=[tried[top]],
        recovered=recovered,
        facts={
            "success": first.shares[top].share,
            "next_success": first.usual,
            "amplitude": first.strength,
            "scored": [tried[i] for i in close],
            **({"screened": tried} if len(tried) < classifier.classes else {}),
        },
    )
