"""Two normalisations on the same images: whether they differ much, and which is better."""

import pytest
import torch

from wiper_cli.images.description import clearly_better, differs_much, lead
from wiper_cli.images.preprocessing import CANDIDATES


@pytest.mark.parametrize(
    ("first", "second", "much"),
    [
        ("CIFAR-10", "CIFAR-100", False), ("CIFAR-10", "ImageNet", False), ("0..1", "ImageNet", True),
        ("0..1", "-1..1", True), ("-1..1", "ImageNet", True), ("0..1", "0..255", True), ("0..1", "0..1", False),
    ],
)  # fmt: skip
def test_what_differs_much(first, second, much):
    usual = CANDIDATES[3]
    assert differs_much(*usual[first], usual[second]) is much
    assert differs_much(*usual[second], usual[first]) is much


def test_only_images_that_are_judged_differently_count():
    def hits(*counts):
        """bool [N]: right under both, ours alone, theirs alone, none."""
        both, ours, theirs, none = counts
        each = torch.tensor([both, ours, theirs, none])
        return tuple(
            torch.tensor(right).repeat_interleave(each)
            for right in ([True, True, False, False], [True, False, True, False])
        )

    assert lead(*hits(50, 0, 0, 50)) == 0
    assert lead(*hits(50, 0, 9, 0)) == lead(*hits(0, 0, 9, 80)) == 3
    assert lead(*hits(50, 12, 4, 0)) == -2
    ours, theirs = hits(40, 0, 10, 0)
    assert clearly_better(theirs, ours)
    assert not clearly_better(ours, theirs)
    assert not clearly_better(*reversed(hits(40, 0, 9, 0)))
