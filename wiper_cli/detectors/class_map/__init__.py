"""Does one small square send every class to another one of its own, as an all-to-all backdoor does?

Detectors that look for a target class are blind to such a backdoor: no class gains. The map itself shows it: an honest
network under a square errs towards a few classes, and not from each class towards a different one.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class ClassMap(Detector):
    """Statistic: of the held-out images of several classes, the mean share that one square sends along a map that was
    chosen on other images, from every class to a different class that is not itself; less the allowance for the
    square's area."""

    name = "class-map"
    title = "small squares that send each class to another one of its own"
    says = "one small square sends clean images of each class to a class of its own"
    names_class = False
    needs_gradients = False
    quick = {"step": 8, "per_source": 3, "finalists": 6}
    efforts = {
        "normal": {"searched": 512, "first": 3, "sources": 8, "kept": 32, "finalists": 3, "resolution": REDUCED},
        "quick": {
            "searched": 256, "step": 6, "first": 2, "sources": 6, "kept": 24, "finalists": 2, "held": 10,
            "resolution": REDUCED,
        },
    }  # fmt: skip
    large = {"quick": {"searched": 128, "kept": 16}}
    origin = (
        "between the 28% or less of eight networks without a map, honest or with one target, and the 87% or more of "
        "four that a square sends from all classes to all, at any effort, CIFAR-10 and GTSRB, 32x32"
    )
    rule = Rule(
        id="WIPER-B06",
        title="One small square sends each class to another one",
        means="The same small square, at the same place, moves held-out images of most classes each to a class of "
        "their own, as a backdoor does that was planted from all classes to all.",
        do="Look at the recovered square and the map, and try it on images of your own. Do not deploy the model; run "
        "`wiper purify`, or retrain from data that you trust.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(0.5, "mean share of held-out images that follow the map")
    sides: tuple[int, ...] = setting((2, 3, 4, 5), "sides in pixels of a 32x32 image")
    fills: tuple[str, ...] = setting(
        ("white", "black", "red", "yellow", "checker", "inverse checker"), "constant colours and checkers"
    )
    step: int = setting(4, "distance of neighbouring places, pixels of 32x32")
    border: int = setting(3, "every place so near to a corner is tried as well")
    offset: int = setting(0, "where the grid of places begins")
    sources: int = setting(16, "classes, as predicted, whose images are followed, at most")
    first: int = setting(5, "of these so many, with one image each, in the first pass over all squares")
    kept: int = setting(64, "squares of the first pass that the second looks at")
    finalists: int = setting(6, "squares of the second pass whose neighbours are tried too")
    per_source: int = setting(
        6, "images of every source that choose square and map, half of them in the second pass"
    )
    held: int = setting(24, "held-out images of every source to score on")
    searched: int = setting(1024, "images of each part that the network sorts into classes, to choose from")
    resolution: float = setting(1.0, "side of the images in the first two passes, as a share")
