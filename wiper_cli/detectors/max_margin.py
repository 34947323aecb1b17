"""Max-margin: how far noise can be pushed into each class. Needs no data.

A variant of MM-BD (Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with
Arbitrary Backdoor Pattern Types Using a Maximum Margin Statistic", S&P 2024): Adam on the pixels instead of
SGD, the median absolute deviation instead of an order-statistic p-value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from wiper_cli.classifier import Classifier
from wiper_cli.detectors import common
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Shape
from wiper_cli.progress import Progress

#: Fewer classes give no spread to compare the largest with.
FEWEST_CLASSES = 4

#: Share of the median margin that the spread between classes is never taken to be less than.
LEAST_SPREAD = 0.25


@dataclass(frozen=True)
class MaxMargin:
    """Largest logit margin over images in 0..1 for every class; statistic: robust deviations,
    (margin - median) / (1.4826 MAD), of the class with the largest."""

    name: ClassVar[str] = "max-margin"
    title: ClassVar[str] = "largest margin reachable from noise, per class"
    needs_gradients: ClassVar[bool] = True

    threshold: float = field(default=4.0, metadata={"help": "robust deviations above the median class"})
    starts: int = field(default=12, metadata={"help": "random images per class"})
    steps: int = field(default=100, metadata={"help": "Adam steps per image"})
    rate: float = field(default=0.05, metadata={"help": "Adam step size, images in 0..1"})
    time_limit: float = field(default=900.0, metadata={"help": "seconds after which it gives up; 0: none"})

    def run(self, classifier: Classifier, clean: Clean, progress: Progress, seed: int) -> Evidence:
        """Uses the clean images' shape only."""
        clock = common.Clock(self.name, self.time_limit, progress)
        try:
            return self._look(classifier, clean, clock, seed)
        except common.CannotLookError as error:
            return common.cannot(self.name, str(error), clock)

    def _look(self, classifier: Classifier, clean: Clean, clock: common.Clock, seed: int) -> Evidence:
        common.require(classifier, clean, gradients=True, images=False)
        if classifier.classes < FEWEST_CLASSES:
            raise common.CannotLookError(
                f"it compares classes with one another and needs {FEWEST_CLASSES}; "
                f"the network has {classifier.classes}"
            )
        largest = self._margins(classifier, common.image_shape(clean.fit.images), clock, seed)
        if not torch.isfinite(largest).all():
            raise common.CannotLookError("the network gives values that are not finite")
        deviations = robust_deviations(largest)
        order = deviations.argsort(descending=True, stable=True).tolist()
        top = order[0]
        statistic = float(deviations[top])
        fired = statistic > self.threshold
        strong = [k for k in order if float(deviations[k]) > self.threshold / 2][:3]
        return Evidence(
            name=self.name,
            ran=True,
            statistic=statistic,
            threshold=self.threshold,
            threshold_origin=common.ORIGIN,
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
            seconds=clock.seconds,
        )

    def _margins(self, classifier: Classifier, shape: Shape, clock: common.Clock, seed: int) -> Tensor:
        """Largest margin of every class, float64 [K]. Starts that lag are dropped: after a fifth of the
        steps half of each class's images go on, after two fifths a quarter."""
        network = classifier.network
        assert network is not None
        generator = torch.Generator().manual_seed(seed)
        classes, device = classifier.classes, classifier.device
        best = torch.full((classes,), -torch.inf, dtype=torch.float64)
        per_chunk = max(1, 240 // self.starts)
        chunks = torch.arange(classes).split(per_chunk)
        for number, chunk in enumerate(chunks):
            noise = torch.rand((len(chunk), self.starts, *shape), generator=generator).to(device)
            image = noise.flatten(0, 1).requires_grad_(True)
            first, second = torch.zeros_like(image), torch.zeros_like(image)
            for step in range(self.steps):
                clock.tick(number * self.steps + step, len(chunks) * self.steps)
                target = chunk.to(device).repeat_interleave(len(image) // len(chunk))
                margin = common.margins(network(image).float(), target)
                (gradient,) = torch.autograd.grad(margin.sum(), image)
                with torch.no_grad():
                    first = 0.9 * first + 0.1 * gradient
                    second = 0.999 * second + 0.001 * gradient.square()
                    scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    image += self.rate * first / (1 - 0.9 ** (step + 1)) / scale
                    image.clamp_(0, 1)
                    each = margin.detach().reshape(len(chunk), -1)
                    if step in (self.steps // 5, 2 * self.steps // 5) and each.shape[1] > 2:
                        keep = each.topk((each.shape[1] + 1) // 2, dim=1).indices
                        keep = (
                            keep + torch.arange(len(chunk), device=device)[:, None] * each.shape[1]
                        ).flatten()
                        image = image[keep].detach().requires_grad_(True)
                        first, second = first[keep], second[keep]
            with torch.no_grad():
                target = chunk.to(device).repeat_interleave(len(image) // len(chunk))
                each = common.margins(network(image).float(), target).reshape(len(chunk), -1)
                best[chunk] = each.amax(1).double().cpu()
        clock.tick(len(chunks) * self.steps, len(chunks) * self.steps)
        return best


def robust_deviations(values: Tensor) -> Tensor:
    """(x - median) / (1.4826 MAD), float64 [K]. The spread counts as at least :data:`LEAST_SPREAD` of the
    median, so that where all classes are alike a small difference is no outlier: with a threshold of 4, the
    largest margin has to be twice the median at the least."""
    values = values.double()
    median = values.quantile(0.5)
    spread = 1.4826 * (values - median).abs().quantile(0.5)
    return (values - median) / spread.clamp_min(LEAST_SPREAD * float(median.abs()) + 1e-9)
