"""Universal additive inversion: one dense faint pattern that sends all images to a class.

Honest networks give way to it as well (Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR
2017) and have favourite classes, so it is a probe to compare with, not a detector of a scan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from wiper_cli.classifier import Classifier
from wiper_cli.detectors import common
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Additive
from wiper_cli.progress import Progress


@dataclass(frozen=True)
class AdditiveInversion:
    """Statistic: the largest share, over targets, of held-out images that the found pattern sends there."""

    name: ClassVar[str] = "additive-inversion"
    title: ClassVar[str] = "universal additive pattern found by gradients, per class"
    needs_gradients: ClassVar[bool] = True
    origin: ClassVar[str] = "above the 80% to 89% that four clean CIFAR-10 networks reached"

    threshold: float = field(default=0.95, metadata={"help": "share of held-out images sent to the class"})
    bound: float = field(default=12 / 255, metadata={"help": "sup norm of the pattern, images in 0..1"})
    steps: int = field(default=60, metadata={"help": "sign steps"})
    per_target: int = field(default=20, metadata={"help": "images per target"})
    targets: tuple[int, ...] = field(default=(), metadata={"help": "classes to try; empty: all, screened"})
    most_targets: int = field(default=16, metadata={"help": "classes that a screening leaves to try"})
    time_limit: float = field(default=900.0, metadata={"help": "seconds after which it gives up; 0: none"})

    def run(self, classifier: Classifier, clean: Clean, progress: Progress, seed: int) -> Evidence:
        """Searches on the fit part, counts flips on up to 200 images of the select part."""
        clock = common.Clock(self.name, self.time_limit, progress)
        try:
            common.require(classifier, clean, gradients=True)
            return common.invert_and_score(
                classifier, clean, Additive, {"bound": self.bound}, self, clock, seed
            )
        except common.CannotLookError as error:
            return common.cannot(self.name, str(error), clock)
