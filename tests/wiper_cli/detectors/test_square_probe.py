import pytest
import torch

from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.detectors.squares import FILL, LEFT, SIDE, TOP, squares, stamped
from wiper_cli.perturbations import square, stamp
from wiper_cli.progress import silent


@pytest.mark.parametrize("head_only", [False, True])
def test_it_finds_the_square_and_names_the_class(classifier, clean, head_only):
    model = classifier("square", head_only=head_only)
    evidence = SquareProbe().run(model, clean, silent, 0)
    assert evidence.target == 2
    found = evidence.recovered[0]
    assert (found.family, found.target) == ("square", 2)
    assert found.facts["fill"] in ("checker", "inverse checker")
    assert found.facts["success"] > 0.9
    others = clean.select.images[model.answers(clean.select.images) != 2]
    after = model.logits(stamp(found, others.float() / 255)).argmax(1)
    assert float((after == 2).float().mean()) == pytest.approx(found.facts["success"])


def test_a_place_off_the_grid_is_found_in_the_second_pass(classifier, clean):
    """The trigger counts at one place only, a pixel aside of the grid."""

    class There(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            window = x[:, :, 13:16, 9:12].mean((1, 2, 3))
            return self.inner(x) + 60 * torch.relu(window - 0.62)[:, None] * torch.eye(6)[4]

    inner = classifier().network.network
    evidence = SquareProbe(sides=(3,), fills=("white",)).run(
        classifier(network=There(inner)), clean, silent, 0
    )
    assert evidence.target == 4
    facts = evidence.recovered[0].facts
    assert facts["top"] <= 13
    assert facts["top"] + facts["side"] >= 16
    assert facts["left"] <= 9
    assert facts["left"] + facts["side"] >= 12


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (3, 64, 96), (2, 6, 6)])
def test_stamping_many_squares_equals_stamping_each(shape):
    generator = torch.Generator().manual_seed(0)
    fills = ["white", "checker", "grey", "inverse checker"]
    probe = SquareProbe(step=9, border=1)
    table = squares(probe, shape, len(fills))
    table = table[torch.randperm(len(table), generator=generator)[:12]]
    images = torch.rand((2, *shape), generator=generator)
    shown = stamped(images, table, fills, shape).reshape(len(table), 2, *shape)
    for row, found in zip(table, shown, strict=True):
        canvas, mask = square(shape, int(row[TOP]), int(row[LEFT]), int(row[SIDE]), fills[int(row[FILL])])
        assert torch.allclose(found, images * (1 - mask) + canvas * mask)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224), (1, 5, 9), (3, 48, 32)])
def test_the_number_of_squares_does_not_grow_with_the_image(shape):
    table = squares(SquareProbe(), shape, 6)
    assert 6 <= len(table) < 2500
    assert int((table[:, TOP] + table[:, SIDE]).max()) == shape[1]
    assert (int((table[:, LEFT] + table[:, SIDE]).max()), int(table[:, :2].min())) == (shape[2], 0)
