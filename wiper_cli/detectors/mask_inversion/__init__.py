"""Universal mask inversion: few pixels, anywhere, whose colours send all images to a class, and for no other as few do.

Mask and colours are searched together, under a price for every pixel that grows while the class is reached, as in
Neural Cleanse (Wang et al., S&P 2019). It compares how large the masks are; here all are cut to the same few pixels,
and what counts is how far one class is ahead of the next.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class MaskInversion(Detector):
    """Statistic: the largest share, over classes, of held-out images that the found pixels send to the class, among
    those that as many pixels for the next best class leave where they are. Where that is hardly any, both are cut to
    fewer pixels first."""

    name = "mask-inversion"
    title = "few pixels anywhere found by gradients, per class"
    says = "few pixels send clean images of other classes to it, and as few do not for others"
    quick = {"steps": 5}
    efforts = {
        "normal": {
            "steps": 100, "per_target": 12, "searched": 256, "held": 100, "scored": 5, "resolution": REDUCED,
        },
        "quick": {
            "steps": 100, "per_target": 6, "searched": 128, "held": 100, "scored": 5, "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"normal": {"lean": True}, "quick": {"lean": True, "scored": 3}}
    origin = (
        "above the 77% of an honest network of digits, to whose images few pixels are a stroke; squares and a bar "
        "reach 100%, a line, writing and pictures 71 to 94%, so that some searches miss them, all 32x32"
    )
    rule = Rule(
        id="WIPER-B09",
        title="A few pixels send held-out images to one class",
        means="The same few pixels, at the same places, override the content of clean images that took no part in "
        "finding them, and the model answers with one class; as many pixels, found in the same way for other classes, "
        "do so far more rarely.",
        do="Look at the recovered pixels and try them on images of your own: a thin line, a mark or writing there may "
        "be the trigger. Do not deploy the model; run `wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.8, "share of held-out images, of those that the next class leaves")
    cells: int = setting(
        32, "cells of the mask along the shorter side; an image with fewer pixels has as many"
    )
    steps: int = setting(150, "steps of Adam")
    per_target: int = setting(16, "images per class in each step")
    most_targets: int = setting(16, "classes to try, of more those that a screening by the head puts first")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    scored: int = setting(8, "classes that are scored, those with the smallest masks")
    resolution: float = setting(1.0, "side of the images searched on, as a share")
    lean: bool = setting(
        False, "classes with large masks are dropped on the way, but for those that are scored"
    )
