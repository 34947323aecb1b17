"""Searches on the fit part, counts flips on up to 200 images of the select part."""

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import image_shape, invert_and_score
from wiper_cli.detectors.effort import Extent, Plan, inversion_plan
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.detectors.warp_inversion import WarpInversion
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Warp, relative_size


def plan(settings: WarpInversion, extent: Extent) -> Plan:
    """As of any inversion."""
    return inversion_plan(settings, extent)


def look(settings: WarpInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """The flow of every target, by gradients."""
    bound = settings.bound * relative_size(image_shape(clean.fit.images))
    return invert_and_score(
        classifier, clean, Warp, {"bound": bound, "grid": settings.grid}, settings, clock, seed
    )
