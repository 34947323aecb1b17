"""Universal additive inversion: one dense faint pattern that sends all images to a class.

Honest networks give way to it as well (Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR
2017) and have favourite classes, so it is a probe to compare with, not a detector of a scan.
"""

from dataclasses import dataclass

from wiper_cli.detectors.evidence import Detector, setting


@dataclass(frozen=True)
class AdditiveInversion(Detector):
    """Statistic: the largest share, over targets, of held-out images that the found pattern sends there."""

    name = "additive-inversion"
    title = "universal additive pattern found by gradients, per class"
    quick = {"steps": 5}
    resolution = 1.0
    origin = "above the 80% to 89% that four clean CIFAR-10 networks reached"

    threshold: float = setting(0.95, "share of held-out images sent to the class")
    bound: float = setting(12 / 255, "sup norm of the pattern, images in 0..1")
    steps: int = setting(60, "sign steps")
    per_target: int = setting(20, "images per target")
    targets: tuple[int, ...] = setting((), "classes to try; empty: all, screened")
    most_targets: int = setting(16, "classes that a screening leaves to try")
    by_head: bool = setting(False, "screened by the head; else by a short search")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    scored: int = setting(16, "classes that are scored, those of the least loss")
