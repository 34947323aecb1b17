"""Small stamps of many shapes and colours, drawn at random and improved by hill climbing: forward passes only.

It yields a sample of what sends images to a class, not the one best stamp: a network that answers to a trigger answers
to a whole neighbourhood of it, and one square covers little of that. ``wiper purify`` unlearns such a sample and looks
for another in the result. It is no detector of a scan: random draws seldom hit a regular pattern.
"""

from dataclasses import dataclass

from wiper_cli.detectors.evidence import Detector, setting


@dataclass(frozen=True)
class ShapeProbe(Detector):
    """Statistic: the largest share of held-out images that one stamp sends to a class searched for, less what the
    same search reaches for innocent classes; both less the allowance for the stamp's area."""

    name = "shape-probe"
    title = "small stamps of many shapes, drawn at random and improved by forward passes"
    needs_gradients = False
    quick = {"drawn": 240, "kept": 4, "rounds": 3}
    origin = (
        "between the -3% or less of an honest and a cured digit network and the 76% or more of one whose bar works "
        "on 14% or more, all 32x32"
    )

    threshold: float = setting(0.25, "share of held-out images, beyond what innocent classes give")
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
