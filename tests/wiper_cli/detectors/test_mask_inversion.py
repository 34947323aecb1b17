import pytest
import torch

from wiper_cli.detectors.common import Flips, ahead, leading
from wiper_cli.detectors.effort import Extent
from wiper_cli.detectors.mask_inversion import MaskInversion
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent


@pytest.mark.parametrize("effort", ["quick", "normal", "thorough"])
def test_it_finds_strewn_pixels_and_names_the_class(classifier, clean, effort):
    model, extent = classifier("dots"), Extent(6, 3, 32, 32, len(clean.fit), len(clean.select))
    evidence = MaskInversion.at(effort, extent).run(model, clean, silent, 0)
    assert (evidence.fired, evidence.target, evidence.suspects) == (True, 2, [2])
    assert evidence.statistic == ahead(evidence.facts["success"], evidence.facts["next_success"])
    (found,) = evidence.recovered
    assert int(found.parameters["mask"].sum()) == evidence.facts["cells"]
    mine = found.parameters["mask"][0].bool() & (model.network.network.dots[0] != 0)
    assert int(mine.sum()) >= 5
    others = clean.select.images[model.answers(clean.select.images) != 2]
    after = model.logits(stamp(found, others.float() / 255)).argmax(1)
    assert float((after == 2).float().mean()) == pytest.approx(found.facts["success"])
    assert len(others) == found.facts["images"]


@pytest.mark.parametrize("shortcut", [None, "warp"])
def test_other_networks_are_not_accused(classifier, clean, shortcut):
    evidence = MaskInversion().run(classifier(shortcut), clean, silent, 0)
    assert (evidence.fired, evidence.recovered) == (False, [])


def test_the_same_search_finds_the_same(classifier, clean):
    one, two = (
        MaskInversion.at("quick", Extent(6, 3, 32, 32, 60, 60)).run(classifier("dots"), clean, silent, 3)
        for _ in "ab"
    )
    assert (one.statistic, one.per_class) == (two.statistic, two.per_class)
    assert torch.equal(one.recovered[0].parameters["mask"], two.recovered[0].parameters["mask"])


def test_many_classes_are_screened_and_that_is_told(classifier, clean):
    evidence = MaskInversion(most_targets=4, scored=2, steps=5).run(classifier(), clean, silent, 0)
    assert len(evidence.facts["screened"]) == 4
    assert set(evidence.facts["scored"]) < set(evidence.facts["screened"])


def test_larger_images_are_masked_in_cells(classifier, clean):
    """A cell of an image of twice the side is two pixels wide, however large the images that were searched on."""

    class Half(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(torch.nn.functional.adaptive_avg_pool2d(x, 32))

    model = classifier(network=Half(classifier("dots").network.network))
    double = lambda part: part.__class__(  # noqa: E731
        part.images.repeat_interleave(2, 2).repeat_interleave(2, 3), part.labels
    )
    large = clean.__class__(*(double(part) for part in (clean.fit, clean.select, clean.report)))
    for resolution in (1.0, 0.5):
        evidence = MaskInversion(resolution=resolution).run(model, large, silent, 0)
        assert (evidence.fired, evidence.target) == (True, 2)
        mask = evidence.recovered[0].parameters["mask"]
        assert mask.shape == (1, 64, 64)
        assert int(mask.sum()) == 4 * evidence.facts["cells"]
        assert torch.equal(mask[:, ::2, ::2], mask[:, 1::2, 1::2])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({3: [0.9, 0.7], 1: [0.4, 0.1]}, (16, 3, 0.4, ahead(0.9, 0.4))),
        ({3: [0.9, 0.7], 1: [0.6, 0.1]}, (10, 3, 0.1, ahead(0.7, 0.1))),
        ({3: [1.0, 0.9], 1: [1.0, 0.8]}, (10, 3, 0.8, 0.0)),
        ({1: [0.3, 0.0], 3: [0.3, 0.0]}, (16, 1, 0.3, 0.0)),
        ({5: [0.3, 0.0]}, (16, 5, 0.0, 0.3)),
    ],
    ids=["at once", "with fewer", "never", "equal", "alone"],
)
def test_classes_are_compared_where_the_next_best_leaves_enough(shares, expected):
    strengths = (16, 10)
    found = leading(
        strengths, lambda s: {k: Flips(v[strengths.index(s)], 200) for k, v in shares.items()}, 0.5
    )
    assert (found.strength, found.member, found.usual, found.statistic) == pytest.approx(expected)
