"""Small stamps of many shapes and colours, drawn at random and improved by hill climbing: forward passes only.

It yields a sample of what sends images to a class, not the one best stamp: a network that answers to a trigger answers
to a whole neighbourhood of it, and one square covers little of that. ``wiper purify`` unlearns such a sample and looks
for another in the result.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class ShapeProbe(Detector):
    """Statistic: the largest share of held-out images that one stamp sends to a class searched for, less what the
    same search reaches for innocent classes; both less the allowance for the stamp's area."""

    name = "shape-probe"
    title = "small stamps of many shapes, drawn at random and improved by forward passes"
    says = "one small stamp sends clean images of other classes to it, and none does so to others"
    needs_gradients = False
    quick = {"drawn": 240, "kept": 4, "rounds": 3}
    efforts = {
        "normal": {"drawn": 1500, "ranked": 4, "kept": 6, "rounds": 6, "held": 100, "resolution": REDUCED},
        "quick": {
            "drawn": 800, "ranked": 3, "kept": 3, "rounds": 5, "searched": 256, "held": 60, "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"normal": {"lean": True}, "quick": {"lean": True, "searched": 128, "handed_on": 2}}
    origin = (
        "between the 35% of an honest network of digits and the 64% or more of three CIFAR-10 networks with a bar, a "
        "line and an L, all 32x32"
    )
    rule = Rule(
        id="WIPER-B05",
        title="One small stamp of some shape sends held-out images to one class",
        means="A small bar, block, cross or scatter of pixels, found by trying, overrides the content of clean images "
        "that took no part in finding it; the same search finds nothing like it for other classes.",
        do="Look at the recovered stamp and try it on images of your own. Do not deploy the model; run "
        "`wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.45, "share of held-out images, beyond what innocent classes give")
    targets: tuple[int, ...] = setting((), "classes to search for; empty: the one that gives way most")
    most_targets: int = setting(3, "of these so many at most")
    compared: int = setting(2, "innocent classes that are searched for as well: those that draws move most")
    drawn: int = setting(3000, "stamps drawn at random")
    ranked: int = setting(6, "images that rank them")
    kept: int = setting(12, "stamps of every class that are improved")
    rounds: int = setting(10, "rounds of changes that each goes through")
    children: int = setting(6, "changed copies of each in every round, of which the best stays")
    images: int = setting(8, "images that choose it, others in every round")
    searched: int = setting(512, "images to search on")
    held: int = setting(200, "held-out images to score on")
    handed_on: int = setting(3, "working stamps of every class that are handed on")
    resolution: float = setting(1.0, "side of the images that are searched on, as a share")
    lean: bool = setting(
        False,
        "reduced held-out images tell which stamp of a class is scored on whole ones, and where it works the next that "
        "are handed on; innocent classes are searched for only where the verdict hangs on them",
    )
