"""Max-margin: how far noise can be pushed into each class. Needs no data.

A variant of MM-BD (Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with
Arbitrary Backdoor Pattern Types Using a Maximum Margin Statistic", S&P 2024): Adam on the pixels instead of
SGD, the median absolute deviation instead of an order-statistic p-value.
"""

from dataclasses import dataclass

from wiper_cli.detectors.effort import REDUCED
from wiper_cli.detectors.evidence import ORIGIN, Detector, setting
from wiper_cli.verdict import PLANTED, Rule, Severity


@dataclass(frozen=True)
class MaxMargin(Detector):
    """Largest logit margin over images in 0..1 for every class; statistic: robust deviations,
    (margin - median) / (1.4826 MAD), of the class with the largest. Of the clean images it uses the shape only."""

    name = "max-margin"
    title = "largest margin reachable from noise, per class"
    says = "noise can be pushed into it far deeper than into the other classes"
    in_percent = False
    needs_images = False
    quick = {"starts": 2, "steps": 10}
    efforts = {
        "normal": {"starts": 8, "steps": 60, "most_classes": 64, "compared": 24, "resolution": REDUCED},
        "quick": {"starts": 4, "steps": 30, "most_classes": 24, "compared": 24, "resolution": REDUCED},
    }
    large = {"quick": {"most_classes": 16}}
    origin = ORIGIN
    rule = Rule(
        id="WIPER-B01",
        title="One class reaches an outlying margin",
        means="Some input, found by gradient ascent and unlike any image, lifts one class above the "
        "runner-up much further than any other class can be lifted. A backdoor leaves such a shortcut to its "
        "target; so, sometimes, does an unbalanced training set.",
        do="Read the class named as target and ask whether an attacker would want it. Run `wiper purify`, "
        "or retrain from data that you trust. Alone, this statistic is a suspicion.",
        severity=Severity.HIGH,
        cwe=(912,),
        atlas=PLANTED,
    )

    threshold: float = setting(4.0, "robust deviations above the median class")
    starts: int = setting(12, "random images per class")
    steps: int = setting(100, "Adam steps per image")
    rate: float = setting(0.05, "Adam step size, images in 0..1")
    most_classes: int = setting(0, "classes that a screening by the head leaves to try; 0: all are tried")
    compared: int = setting(24, "classes drawn at random that screened ones are compared with")
    resolution: float = setting(1.0, "side of the noise, as a share of the image's")

    def screens(self, classes: int) -> bool:
        """Whether so many classes are screened before the search."""
        return 0 < self.most_classes < classes - self.compared
