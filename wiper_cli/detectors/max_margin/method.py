"""Adam from random images of every class at once."""

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import image_shape, margins
from wiper_cli.detectors.evidence import CannotLookError, Clock, Evidence
from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Shape

#: Fewer classes give no spread to compare the largest with.
FEWEST_CLASSES = 4

#: Share of the median margin that the spread between classes is never taken to be less than.
LEAST_SPREAD = 0.25


def look(settings: MaxMargin, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Margins of all classes, and how far the largest stands out."""
    if classifier.classes < FEWEST_CLASSES:
        raise CannotLookError(
            f"it compares classes with one another and needs {FEWEST_CLASSES}; "
            f"the network has {classifier.classes}"
        )
    largest = _margins(settings, classifier, image_shape(clean.fit.images), clock, seed)
    if not torch.isfinite(largest).all():
        raise CannotLookError("the network gives values that are not finite")
    deviations = robust_deviations(largest)
    order = deviations.argsort(descending=True, stable=True).tolist()
    top = order[0]
    statistic = float(deviations[top])
    fired = statistic > settings.threshold
    strong = [k for k in order if float(deviations[k]) > settings.threshold / 2][:3]
    return Evidence(
        name=settings.name,
        ran=True,
        statistic=statistic,
        threshold=settings.threshold,
        threshold_origin=settings.origin,
        fired=fired,
        target=top if fired else None,
        per_class=[float(value) for value in deviations],
        suspects=strong or order[:1],
        facts={
            "margins": [float(value) for value in largest],
            "median_margin": float(largest.median()),
            "second_class": order[1],
            "second_statistic": float(deviations[order[1]]),
        },
    )


def _margins(settings: MaxMargin, classifier: Classifier, shape: Shape, clock: Clock, seed: int) -> Tensor:
    """Largest margin of every class, float64 [K]. Starts that lag are dropped: after a fifth of the
    steps half of each class's images go on, after two fifths a quarter."""
    network = classifier.network
    assert network is not None
    generator = torch.Generator().manual_seed(seed)
    classes, device = classifier.classes, classifier.device
    best = torch.full((classes,), -torch.inf, dtype=torch.float64)
    per_chunk = max(1, 240 // settings.starts)
    chunks = torch.arange(classes).split(per_chunk)
    for number, chunk in enumerate(chunks):
        noise = torch.rand((len(chunk), settings.starts, *shape), generator=generator).to(device)
        image = noise.flatten(0, 1).requires_grad_(True)
        first, second = torch.zeros_like(image), torch.zeros_like(image)
        for step in range(settings.steps):
            clock.tick(number * settings.steps + step, len(chunks) * settings.steps)
            target = chunk.to(device).repeat_interleave(len(image) // len(chunk))
            margin = margins(network(image).float(), target)
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
            best[chunk] = each.amax(1).double().cpu()
    clock.tick(len(chunks) * settings.steps, len(chunks) * settings.steps)
    return best


def robust_deviations(values: Tensor) -> Tensor:
    """(x - median) / (1.4826 MAD), float64 [K]. The spread counts as at least :data:`LEAST_SPREAD` of the
    median, so that where all classes are alike a small difference is no outlier: with a threshold of 4, the
    largest margin has to be twice the median at the least."""
    values = values.double()
    median = values.quantile(0.5)
    spread = 1.4826 * (values - median).abs().quantile(0.5)
    return (values - median) / spread.clamp_min(LEAST_SPREAD * float(median.abs()) + 1e-9)
