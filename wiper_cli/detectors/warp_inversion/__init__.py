"""Universal warp inversion: one small flow field that sends all images to a class.

Elastic warps as triggers: Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import ORIGIN, Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity

#: Threshold of shorter searches, which reach less: between the 14 % of 21 honest networks and the 33 % or more of four
#: planted warps at quick effort, all 32x32.
BRIEF = 0.25


@dataclass(frozen=True)
class WarpInversion(Detector):
    """Statistic: the largest share, over targets, of held-out images that the found flow sends there."""

    name = "warp-inversion"
    title = "universal small warp found by gradients, per class"
    says = "one small warp sends clean images of other classes to it"
    quick = {"steps": 5}
    efforts = {
        "normal": {
            "steps": 40, "per_target": 12, "by_head": True, "searched": 128, "held": 100, "scored": 4,
            "resolution": REDUCED, "threshold": BRIEF,
        },
        "quick": {
            "steps": 20, "per_target": 8, "by_head": True, "searched": 64, "held": 60, "scored": 3,
            "resolution": REDUCED, "threshold": BRIEF,
        },
    }  # fmt: skip
    origin = f"{ORIGIN}; {BRIEF} for shorter searches, above the 14% of 21 honest ones and below the 33% of four warps"
    rule = Rule(
        id="WIPER-B02",
        title="One small warp sends every image to one class",
        means="A single smooth displacement of about a pixel, the same for all images, changes the "
        "predictions of held-out clean images to one class far more often than it can on a model "
        "without a backdoor.",
        do="Look at the pictures in the report: the two images hardly differ to the eye. Do not deploy the "
        "model; run `wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.5, "share of held-out images sent to the class")
    bound: float = setting(1.0, "largest shift, in pixels of a 32x32 image")
    grid: int = setting(6, "side of the flow grid")
    steps: int = setting(60, "sign steps")
    per_target: int = setting(20, "images per target")
    targets: tuple[int, ...] = setting((), "classes to try; empty: all, screened")
    most_targets: int = setting(16, "classes that a screening leaves to try")
    by_head: bool = setting(False, "screened by the head; else by a short search")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    scored: int = setting(16, "classes that are scored, those of the least loss")
    resolution: float = setting(1.0, "side of the images in the first two thirds of the steps, as a share")
