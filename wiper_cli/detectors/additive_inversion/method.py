"""Searches on the fit part, counts flips on up to 200 images of the select part."""

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.common import invert_and_score
from wiper_cli.detectors.effort import Extent, Plan, inversion_plan
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Additive


def plan(settings: AdditiveInversion, extent: Extent) -> Plan:
    """As of any inversion."""
    return inversion_plan(settings, extent)


def look(
    settings: AdditiveInversion, classifier: Classifier, clean: Clean, clock: Clock, seed: int
) -> Evidence:
    """The pattern of every target, by gradients."""
    return invert_and_score(classifier, clean, Additive, {"bound": settings.bound}, settings, clock, seed)
