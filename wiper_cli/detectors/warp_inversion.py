"""Universal warp inversion: one small flow field that sends all images to a class.

Elastic warps as triggers: Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from wiper_cli.classifier import Classifier
from wiper_cli.detectors import common
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Warp, relative_size
from wiper_cli.progress import Progress


@dataclass(frozen=True)
class WarpInversion:
    """Statistic: the largest share, over targets, of held-out images that the found flow sends there."""

    name: ClassVar[str] = "warp-inversion"
    title: ClassVar[str] = "universal small warp found by gradients, per class"
    needs_gradients: ClassVar[bool] = True
    origin: ClassVar[str] = common.ORIGIN

    threshold: float = field(default=0.5, metadata={"help": "share of held-out images sent to the class"})
    bound: float = field(default=1.0, metadata={"help": "largest shift, in pixels of a 32x32 image"})
    grid: int = field(default=6, metadata={"help": "side of the flow grid"})
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
            shape = common.image_shape(clean.fit.images)
            bounds = {"bound": self.bound * relative_size(shape), "grid": self.grid}
            return common.invert_and_score(classifier, clean, Warp, bounds, self, clock, seed)
        except common.CannotLookError as error:
            return common.cannot(self.name, str(error), clock)
