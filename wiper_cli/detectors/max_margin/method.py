"""Adam from random images of every class at once."""

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import at_resolution, image_shape, margins, sample, screened_by_head
from wiper_cli.detectors.effort import SCREENED_ON, Extent, Plan, halving, reduced, screening
from wiper_cli.detectors.evidence import CannotLookError, Clock, Evidence, judged
from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Shape

#: Fewer classes give no spread to compare the largest with.
FEWEST_CLASSES = 4

#: Share of the median margin that the spread between classes is never taken to be less than.
LEAST_SPREAD = 0.25


def plan(settings: MaxMargin, extent: Extent) -> Plan:
    """Every start is an image: both passes at each step, and one look at the end."""
    classes = extent.classes
    forward = backward = 0
    if settings.screens(classes):
        classes = settings.most_classes + settings.compared
        forward, backward = screening(extent)
    going = halving(settings.starts, settings.steps, 2, settings.steps // 5 + 1, 2 * settings.steps // 5 + 1)
    height, width = reduced(extent, settings.resolution)
    share = classes * height * width / (extent.height * extent.width)
    how = {"starts": settings.starts, "steps": settings.steps, "side": min(height, width)}
    backward += round(share * sum(going))
    return Plan(settings.name, classes, forward + round(share * (sum(going) + going[-1])), backward, how)


def look(settings: MaxMargin, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Margins of all classes, and how far the largest stands out."""
    if classifier.classes < FEWEST_CLASSES:
        raise CannotLookError(
            f"it compares classes with one another and needs {FEWEST_CLASSES}; "
            f"the network has {classifier.classes}"
        )
    shape = image_shape(clean.fit.images)
    generator = torch.Generator().manual_seed(seed)
    tried, drawn = _tried(settings, classifier, clean, generator)
    largest = torch.full((classifier.classes,), torch.nan, dtype=torch.float64)
    largest[tried] = _margins(
        settings, classifier, tried, at_resolution(shape, settings.resolution), clock, generator
    )
    if not torch.isfinite(largest[tried]).all():
        raise CannotLookError("the network gives values that are not finite")
    deviations = robust_deviations(largest, drawn)
    order = [k for k in deviations.argsort(descending=True, stable=True).tolist() if k in set(tried.tolist())]
    top = order[0]
    statistic = float(deviations[top])
    strong = [k for k in order if float(deviations[k]) > settings.threshold / 2][:3]
    return judged(
        settings,
        statistic,
        target=top,
        per_class=[float(value) for value in deviations],
        suspects=strong or order[:1],
        facts={
            "margins": [float(value) for value in largest[tried]],
            "median_margin": float(largest[drawn].median()),
            **({"classes": tried.tolist(), "compared": drawn.tolist()} if len(tried) < len(largest) else {}),
            "second_class": order[1],
            "second_statistic": float(deviations[order[1]]),
        },
    )


def _tried(
    settings: MaxMargin, classifier: Classifier, clean: Clean, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The classes to search for, int64, sorted, and those of them that are typical: all, or of many classes those that
    a screening puts first, and others drawn at random, which the median and the spread come from."""
    classes = torch.arange(classifier.classes)
    if not settings.screens(classifier.classes):
        return classes, classes
    ranked = screened_by_head(classifier, sample(clean.fit.images, SCREENED_ON, generator), generator)
    first, rest = ranked[: settings.most_classes], ranked[settings.most_classes :]
    drawn = rest[torch.randperm(len(rest), generator=generator)[: settings.compared]]
    return torch.cat([first, drawn]).sort()[0], drawn.sort()[0]


def _margins(
    settings: MaxMargin,
    classifier: Classifier,
    tried: Tensor,
    shape: Shape,
    clock: Clock,
    generator: torch.Generator,
) -> Tensor:
    """Largest margin of the classes ``tried``, float64 [T]. Starts that lag are dropped: after a fifth of the
    steps half of each class's images go on, after two fifths a quarter."""
    network = classifier.network
    assert network is not None
    device = classifier.device
    best = torch.full((len(tried),), -torch.inf, dtype=torch.float64)
    per_chunk = max(1, min(240, classifier.batch) // settings.starts)
    chunks, rows = tried.split(per_chunk), torch.arange(len(tried)).split(per_chunk)
    for number, chunk in enumerate(chunks):
        noise = torch.rand((len(chunk), settings.starts, *shape), generator=generator).to(device)
        image = noise.flatten(0, 1).requires_grad_(True)
        first, second = torch.zeros_like(image), torch.zeros_like(image)
        for step in range(settings.steps):
            clock.tick(number * settings.steps + step, len(chunks) * settings.steps)
            target = chunk.to(device).repeat_interleave(len(image) // len(chunk))
            margin = margins(classifier.rough(image), target)
            (gradient,) = torch.autograd.grad(margin.sum(), image)
            with torch.no_grad():
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient.square()
                scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                image += settings.rate * first / (1 - 0.9 ** (step + 1)) / scale
                image.clamp_(0, 1)
                each = margin.detach().reshape(len(chunk), -1)
                if step in (settings.steps // 5, 2 * settings.steps // 5) and each.shape[1] > 2:
                    keep = each.topk((each.shape[1] + 1) // 2, dim=1).indices
                    keep = (keep + torch.arange(len(chunk), device=device)[:, None] * each.shape[1]).flatten()
                    image = image[keep].detach().requires_grad_(True)
                    first, second = first[keep], second[keep]
        with torch.no_grad():
            target = chunk.to(device).repeat_interleave(len(image) // len(chunk))
            each = margins(network(image).float(), target).reshape(len(chunk), -1)
            best[rows[number]] = each.amax(1).double().cpu()
    clock.tick(len(chunks) * settings.steps, len(chunks) * settings.steps)
    return best


def robust_deviations(values: Tensor, typical: Tensor | None = None) -> Tensor:
    """(x - median) / (1.4826 MAD), float64 [K]; both are taken over the rows ``typical`` (all).

    The spread counts as at least :data:`LEAST_SPREAD` of the median, so that where all classes are alike a small
    difference is no outlier: with a threshold of 4, the largest margin has to be twice the median at the least."""
    values = values.double()
    known = values if typical is None else values[typical]
    median = known.quantile(0.5)
    spread = 1.4826 * (known - median).abs().quantile(0.5)
    return (values - median) / spread.clamp_min(LEAST_SPREAD * float(median.abs()) + 1e-9)
