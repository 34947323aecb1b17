"""Squares at many places, in a few sizes and fills: forward passes only, all classes at once.

It needs no gradient, so it also sees a trigger that unlearning has hidden from inversion by gradients, and
it runs on a file that was opened head-only.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class SquareProbe(Detector):
    """Statistic: the largest share, over classes, of held-out images that one square sends to the class,
    less an allowance for squares that cover more of the image than a fiftieth."""

    name = "square-probe"
    title = "small squares at many places, forward passes only"
    says = "one small square sends clean images of other classes to it"
    needs_gradients = False
    quick = {"step": 8, "images": 16}
    efforts = {
        "normal": {
            "coarse_images": 2, "finalists": 24, "refine_images": 4, "images": 24, "verified": 4,
            "resolution": REDUCED,
        },
        "quick": {
            "step": 6, "coarse_images": 2, "finalists": 9, "refine_images": 4, "images": 12, "verified": 3,
            "held": 60, "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"normal": {"lean": True}, "quick": {"lean": True}}
    origin = (
        "between the 49% of one honest network and the 91% or more of three with planted squares, all 32x32"
    )
    rule = Rule(
        id="WIPER-B03",
        title="One small square sends held-out images to one class",
        means="The same small square, at the same place, overrides the content of clean images that took no "
        "part in finding it, and the model answers with one class.",
        do="Look at the recovered square and try it on images of your own. Do not deploy the model; run "
        "`wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.75, "share of held-out images sent to the class")
    sides: tuple[int, ...] = setting((3, 4, 5), "sides in pixels of a 32x32 image")
    fills: tuple[str, ...] = setting(
        ("white", "black", "red", "yellow", "checker", "inverse checker"), "constant colours and checkers"
    )
    step: int = setting(4, "distance of neighbouring places, pixels of 32x32")
    border: int = setting(3, "every place so near to a corner is tried as well")
    offset: int = setting(0, "where the grid of places begins")
    coarse_images: int = setting(4, "images for the first pass over all squares")
    finalists: int = setting(36, "squares whose neighbours the second pass tries")
    refine_images: int = setting(8, "images for the second pass")
    images: int = setting(48, "images that choose the best square of every class")
    verified: int = setting(12, "classes whose best square is scored on held-out images")
    held: int = setting(200, "held-out images to score on")
    resolution: float = setting(1.0, "side of the images in the first two passes, as a share")
    lean: bool = setting(
        False,
        "reduced images choose the square of every class, too, and more squares than these are scored only where one "
        "comes near the threshold",
    )
