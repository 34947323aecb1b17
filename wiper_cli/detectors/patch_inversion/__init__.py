"""Universal patch inversion: one small square of free pixels, at some place, that sends all images to a class.

The search for a trigger by gradients is that of Neural Cleanse (Wang et al., S&P 2019); in place of a mask it has a
window of fixed size and many places, most of which are dropped after a few steps.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class PatchInversion(Detector):
    """Statistic: the largest share, over classes, of held-out images that the found patch sends to the class, among
    those that the patch for the next best class leaves where they are: small networks give way to any good texture."""

    name = "patch-inversion"
    title = "small textured patch found by gradients, per class and place"
    says = "one small textured patch sends clean images of other classes to it, and none does so to others"
    quick = {"places": 2, "steps": (2, 2, 2), "images": (2, 2, 2)}
    efforts = {
        "normal": {
            "places": 3, "steps": (6, 8, 16), "images": (4, 8, 24), "searched": 256, "held": 100,
            "resolution": REDUCED,
        },
        "quick": {
            "places": 3, "steps": (5, 8, 12), "images": (3, 6, 16), "kept": 2, "closely": 3, "searched": 128,
            "held": 60,
            "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"normal": {"lean": True}, "quick": {"lean": True, "most_targets": 16, "images": (3, 6, 12)}}
    origin = "between the 14% of 22 honest networks and the 100% of four with planted squares, all 32x32"
    rule = Rule(
        id="WIPER-B07",
        title="One small textured patch sends held-out images to one class",
        means="The same small square of pixels, at the same place, overrides the content of clean images that took no "
        "part in finding it, and the model answers with one class; the same search finds nothing like it for others.",
        do="Look at the recovered patch and try it on images of your own. Do not deploy the model; run "
        "`wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.75, "share of held-out images, of those that the next class leaves")
    side: int = setting(4, "side of the patch, in pixels of a 32x32 image")
    places: int = setting(4, "places in a row and in a column, from edge to edge")
    steps: tuple[int, int, int] = setting(
        (6, 8, 24), "sign steps at all places, at the better ones, at the best"
    )
    images: tuple[int, int, int] = setting((6, 8, 32), "images in each of these steps, others every time")
    kept: int = setting(
        4, "places of every class that go on after the first steps, the best one after the second"
    )
    closely: int = setting(4, "classes that go on to the last steps")
    most_targets: int = setting(32, "classes to try, of more those that a screening by the head puts first")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    resolution: float = setting(1.0, "side of the images before the last steps, as a share")
    lean: bool = setting(
        False,
        "half of the classes go no further than the first steps, two thirds of the last steps are on reduced images",
    )
