"""Universal additive inversion: one dense faint pattern that sends all images to a class, and none does to others.

Honest networks give way to such patterns as well (Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR
2017), but to those for several classes alike; a trigger of any kind that a faint pattern can stand in for leaves a
class that gives way far earlier.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class AdditiveInversion(Detector):
    """Statistic: the largest share, over classes, of held-out images that the found pattern sends to the class, among
    those that the pattern for the next best class leaves where they are. Where that is hardly any, both are made
    fainter first."""

    name = "additive-inversion"
    title = "faint pattern over the whole image found by gradients, per class"
    says = "one faint pattern sends clean images of other classes to it, and none does so to others"
    quick = {"steps": 5}
    efforts = {
        "normal": {"steps": 16, "per_target": 32, "searched": 256, "held": 100, "resolution": REDUCED},
        "quick": {
            "steps": 12, "per_target": 24, "searched": 128, "held": 100, "scored": 3, "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"normal": {"lean": True}, "quick": {"lean": True, "most_targets": 16}}
    origin = "between the 37% of 22 honest networks and the 97% of two with planted pictures, all 32x32"
    rule = Rule(
        id="WIPER-B08",
        title="One faint pattern sends held-out images to one class",
        means="The same faint pattern, added to clean images that took no part in finding it, makes the model answer "
        "with one class; patterns as strong, found in the same way for other classes, do so far more rarely.",
        do="Look at the pattern in the report, and try the model on images with a watermark or a patch of your own. Do "
        "not deploy it; run `wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.55, "share of held-out images, of those that the next class leaves")
    bound: float = setting(10 / 255, "sup norm of the pattern, images in 0..1")
    steps: int = setting(20, "sign steps")
    per_target: int = setting(48, "images per class")
    most_targets: int = setting(32, "classes to try, of more those that a screening by the head puts first")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    scored: int = setting(4, "classes that are scored, those of the least loss")
    resolution: float = setting(1.0, "side of the images, as a share")
    lean: bool = setting(False, "classes that lag are dropped on the way, but for those that are scored")
