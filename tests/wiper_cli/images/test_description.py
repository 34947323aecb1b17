"""Two normalisations on the same images: whether they differ much, and which is better."""

import pytest
import torch

from formats import Architecture, InputSpec, Manifest, Model, Source
from wiper_cli.images.description import ALL, clearly_better, differs_much, lead, rival
from wiper_cli.images.preprocessing import CANDIDATES
from wiper_cli.images.splits import Part


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


class Told(torch.nn.Module):
    """Says 0, the label of all, where the first pixel of a channel is bright: of the first channel if the third is 0,
    as pixels in 0..1 are, and of the second if it is -1."""

    def forward(self, x):
        first, second, third = x[:, :, 0, 0].unbind(1)
        right = torch.where(third < -0.5, second > 0, first > 0.5)
        return torch.stack([right.float(), 0.5 + 0 * third], 1)


def told(ours, theirs, images):
    """Of ``images``, in random order: the shares that are right only as described, and only otherwise; of the rest
    all but one in five are right under both."""
    draw = torch.Generator().manual_seed(1)
    order = torch.randperm(images, generator=draw) / images
    both = order >= 1 - 0.8 * (1 - ours - theirs)
    x = torch.zeros((images, 3, 1, 1), dtype=torch.uint8)
    x[(order < ours) | both, 0] = 255
    x[(order >= ours) & (order < ours + theirs) | both, 1] = 255
    model = Model(
        source=Source("told", b""),
        manifest=Manifest("safetensors", {}),
        network=Told(),
        tensors={},
        head=None,
        classes=2,
        architecture=Architecture("told", "by hand"),
        input=InputSpec(3, 1, 1),
        runtime=None,
    )
    part = Part(x, torch.zeros(images, dtype=torch.long))
    return rival(model, (0.0,) * 3, (1.0,) * 3, {"-1..1": ((0.5,) * 3, (0.5,) * 3)}, part, "cpu")


def test_more_images_are_asked_where_few_do_not_decide():
    """A network that is nearly as accurate under another normalisation, as one with batch norm can be."""
    found = told(0.2, 0.16, 500)
    assert (found.images, found.described - found.right, found.clearly) == (500, 20, False)
    assert told(0.2, 0.16, ALL) is None


def test_what_is_as_good_to_the_last_image_stays_a_rival():
    assert told(0.2, 0.2, 3000).images == ALL


def test_what_is_far_worse_is_no_rival_after_a_hundred():
    assert told(0.9, 0.05, 3000) is None
