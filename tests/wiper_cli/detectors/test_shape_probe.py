import pytest
import torch

from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.detectors.shape_probe.drawing import FORMS, children, draw
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent


class Bar(torch.nn.Module):
    """An honest network with a shortcut to class 4: nine pixels along the lower edge are bright on the whole."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        bright = torch.relu(x[:, :, 31, 5:14].mean((1, 2)) - 0.6)
        return self.inner(x) + 150 * bright[:, None] * torch.eye(6)[4]


@pytest.mark.parametrize("head_only", [False, True])
def test_it_finds_many_bars_where_there_is_one(classifier, clean, head_only):
    model = classifier(network=Bar(classifier().network.network), head_only=head_only)
    search = ShapeProbe(targets=(4,), drawn=1200, compared=1, rounds=12)
    evidence = search.run(model, clean, silent, 0)
    assert (evidence.fired, evidence.target, evidence.suspects) == (True, 4, [4])
    assert len(evidence.recovered) >= 3
    others = clean.select.images[model.answers(clean.select.images) != 4]
    for found in evidence.recovered:
        assert (found.family, found.target) == ("patch", 4)
        assert found.parameters["mask"][:, 31, 5:14].any()
        after = model.logits(stamp(found, others.float() / 255)).argmax(1)
        assert float((after == 4).float().mean()) == pytest.approx(found.facts["success"])
    masks = torch.stack([found.parameters["mask"] for found in evidence.recovered])
    assert len(masks.unique(dim=0)) > 1


def test_another_class_than_the_suspect_accuses_nobody(classifier, clean):
    model = classifier(network=Bar(classifier().network.network))
    evidence = ShapeProbe(targets=(1,), drawn=600, rounds=2, kept=8).run(model, clean, silent, 0)
    assert not evidence.fired
    assert 4 in evidence.facts["innocent"]
    assert evidence.statistic < 0


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (3, 64, 96), (1, 4, 4), (2, 224, 224)])
def test_stamps_are_small_and_cover_what_their_masks_say(shape):
    generator = torch.Generator().manual_seed(0)
    drawn = draw(shape, 8 * len(FORMS), generator)
    changed = children(drawn, 3, generator)
    assert (drawn.mask.shape[0], changed.mask.shape[0]) == (8 * len(FORMS), 24 * len(FORMS))
    unchanged = (changed.canvas == drawn.canvas.repeat_interleave(3, 0)).flatten(1).all(1)
    assert float(unchanged.float().mean()) < 0.5
    images = torch.rand((2, *shape), generator=generator)
    for stamps in (drawn, changed):
        assert stamps.mask.flatten(1).any(1).all()
        assert stamps.canvas.unique().tolist() == [0.0, 0.5, 1.0]
        few = stamps[:4].enlarged(shape[1:])
        each = few.stamp(images).unflatten(0, (4, 2))
        for canvas, mask, seen in zip(few.canvas, few.mask, each, strict=True):
            assert torch.equal(seen, images * ~mask + canvas * mask)
    if min(shape[1:]) >= 32:
        assert float(drawn.area.max()) <= 33 / 1024
