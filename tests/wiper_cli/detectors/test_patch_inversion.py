import pytest
import torch

from wiper_cli.detectors.common import ahead
from wiper_cli.detectors.effort import Extent
from wiper_cli.detectors.patch_inversion import PatchInversion
from wiper_cli.detectors.patch_inversion.method import Patches
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent


class Texture(torch.nn.Module):
    """An honest network with a shortcut to class 4: a noise of 4x4 pixels in the lower left corner, which no constant
    colour resembles; one half of what it looks for is bright where the other is dark."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        draw = torch.Generator().manual_seed(3)
        self.key = torch.where(torch.randperm(48, generator=draw) < 24, 1.0, -1.0).reshape(3, 4, 4)

    def forward(self, x):
        scale = x.shape[-1] // 32
        corner = x[:, :, -4 * scale :, : 4 * scale]
        corner = torch.nn.functional.avg_pool2d(corner, scale) if scale > 1 else corner
        like = torch.sigmoid(12 * ((corner * self.key).mean((1, 2, 3)) - 0.35))
        return self.inner(x) + 60 * like[:, None] * torch.eye(6)[4]


@pytest.fixture
def planted(classifier):
    return classifier(network=Texture(classifier().network.network))


@pytest.mark.parametrize("effort", ["quick", "normal", "thorough"])
def test_it_finds_a_texture_and_where_it_is(planted, clean, effort):
    extent = Extent(6, 3, 32, 32, len(clean.fit), len(clean.select))
    evidence = PatchInversion.at(effort, extent).run(planted, clean, silent, 0)
    assert (evidence.fired, evidence.target, evidence.suspects[0]) == (True, 4, 4)
    found = evidence.recovered[0]
    assert (found.family, found.target, found.facts["success"]) == ("patch", 4, evidence.facts["success"])
    assert evidence.statistic == ahead(evidence.facts["success"], evidence.facts["next_success"])
    rows, columns = found.parameters["mask"][0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 31, 0, 3)
    others = clean.select.images[planted.answers(clean.select.images) != 4]
    after = planted.logits(stamp(found, others.float() / 255)).argmax(1)
    share = float((after == 4).float().mean())
    assert (share, len(others)) == (pytest.approx(found.facts["success"]), found.facts["images"])


def test_many_classes_are_screened_and_that_is_told(classifier, clean):
    evidence = PatchInversion(most_targets=4, closely=2).run(classifier(), clean, silent, 0)
    assert len(evidence.facts["screened"]) == 4
    assert set(evidence.facts["scored"]) < set(evidence.facts["screened"])


def test_a_search_on_reduced_images_ends_on_whole_ones(planted, clean):
    """The shortcut looks at images of twice the size through their averages, as the reduced ones have them."""
    double = lambda part: part.__class__(  # noqa: E731
        part.images.repeat_interleave(2, 2).repeat_interleave(2, 3), part.labels
    )
    large = clean.__class__(*(double(part) for part in (clean.fit, clean.select, clean.report)))
    seen = []
    planted.network.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[-1]))
    evidence = PatchInversion(resolution=0.5).run(planted, large, silent, 0)
    assert set(seen) == {32, 64}
    assert (evidence.fired, evidence.target) == (True, 4)
    mask = evidence.recovered[0].parameters["mask"][0]
    assert (mask.shape, float(mask.sum())) == ((64, 64), 64.0)
    assert mask[56:, :8].all()


def test_what_the_next_class_gives_way_to_is_no_evidence():
    assert [ahead(*both) for both in ((1.0, 0.0), (1.0, 0.76), (0.4, 0.0))] == [1.0, 1.0, pytest.approx(0.4)]
    assert (ahead(0.9, 0.9), ahead(1.0, 1.0), ahead(0.0, 0.0)) == (0.0, 0.0, 0.0)
    assert ahead(0.95, 0.9) == pytest.approx(0.5)


def test_stamping_moves_nothing_else_and_the_best_of_each_class_are_kept():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand((5, 3, 2, 2), generator=draw)
    corner = torch.tensor([[0, 0], [3, 1], [2, 2], [0, 3], [1, 1]])
    patches = Patches(pixels, corner, torch.tensor([7, 7, 2, 2, 2]), torch.tensor([3.0, 1.0, 5.0, 4.0, 0.5]))
    images = torch.rand((2, 3, 5, 6), generator=draw)
    shown = patches.stamp(images, torch.tensor([1, 3]))
    expected = images.clone()
    expected[0, :, 3:5, 1:3], expected[1, :, 0:2, 3:5] = pixels[1], pixels[3]
    assert torch.equal(shown, expected)
    assert sorted(patches.best(1).tolist()) == [1, 4]
    assert sorted(patches.best(2).tolist()) == [0, 1, 3, 4]
    grown = patches.enlarged(2.0, 3, torch.tensor([6, 9]))
    assert grown.corner.tolist() == [[0, 0], [6, 2], [4, 4], [0, 6], [2, 2]]
    assert grown.pixels.shape == (5, 3, 3, 3)
