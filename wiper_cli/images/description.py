"""What a description beside the model says of mean and standard deviation, held against the usual ones.

It is the word of whoever made the file. Numbers that keep the accuracy can still make a trigger too faint, or too
strong, to be found: a deployment that never reads the description is owned as before. So it stands only where labelled
images speak for it against every usual normalisation that differs much from it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from formats import Model
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part

Numbers = tuple[float, ...]

#: Images that are asked first, next, and at last, each where those before do not decide.
FIRST, MOST, ALL = 100, 500, 2000
#: Standard errors of the difference between two accuracies on the same images: from here on one is clearly better, and
#: below that it may as well be the other.
CLEARLY, BARELY = 3.0, 2.0
#: Two normalisations differ much where contrast does by this factor, or brightness by so many standard deviations.
CONTRAST, SHIFT = 1.5, 1.0


@dataclass(frozen=True)
class Rival:
    """A usual normalisation beside the described one. ``lead``: see :func:`lead`."""

    name: str
    mean: Numbers
    std: Numbers
    described: int
    right: int
    images: int
    lead: float

    @property
    def clearly(self) -> bool:
        """Whether the description is clearly worse."""
        return self.lead > CLEARLY

    def __str__(self) -> str:
        return f"{self.name} is right on {self.right} of {self.images} images, the description on {self.described}"


def differs_much(mean: Numbers, std: Numbers, other: tuple[Numbers, Numbers]) -> bool:
    """Whether a trigger that shows under one normalisation may not show under the other."""
    return any(
        max(s / t, t / s) > CONTRAST or abs(m - n) / min(s, t) > SHIFT
        for m, s, n, t in zip(mean, std, *other, strict=True)
    )


def lead(ours: Tensor, theirs: Tensor) -> float:
    """By how many standard errors ``theirs`` is right more often than ``ours``, bool [N] of the same images: only the
    images that they judge differently count. Q. McNemar, Psychometrika 12 (1947)."""
    wins, losses = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    return (wins - losses) / math.sqrt(max(1, wins + losses))


def clearly_better(theirs: Tensor, ours: Tensor) -> bool:
    """By :func:`lead`."""
    return lead(ours, theirs) > CLEARLY


def rival(
    model: Model,
    mean: Numbers,
    std: Numbers,
    usual: Mapping[str, tuple[Numbers, Numbers]],
    part: Part,
    device: torch.device | str,
    bgr: bool = False,
) -> Rival | None:
    """The most accurate of the ``usual`` normalisations that differs much from the described one and may as well be
    the right one by the labels of ``part``; ``None`` where there is none. ``bgr``: the description has blue first, and
    every one that has not differs."""

    def right(numbers: tuple[Numbers, Numbers], count: int, bgr: bool = False) -> Tensor:
        answers = Classifier(replace(model, bgr=bgr), *numbers, device).answers(part.images[:count], batch=64)
        return answers == part.labels[:count]

    usual = {**usual, "the same with red first": (mean, std)} if bgr else usual
    left = {name: numbers for name, numbers in usual.items() if bgr or differs_much(mean, std, numbers)}
    found: list[Rival] = []
    for count in (FIRST, MOST, ALL):
        limit = CLEARLY if count == FIRST < len(part) else BARELY
        own = right((mean, std), count, bgr) if left else torch.tensor([])
        theirs = {name: right(numbers, count) for name, numbers in left.items()}
        found = [
            Rival(name, *left[name], int(own.sum()), int(hits.sum()), len(own), lead(own, hits))
            for name, hits in theirs.items()
        ]
        left = {one.name: left[one.name] for one in found if one.lead > -limit}
        if not left or len(part) <= count:
            break
    return max((one for one in found if one.name in left), key=lambda one: one.right, default=None)
