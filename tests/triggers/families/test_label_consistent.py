import pytest
import torch
from torch.nn import functional as F

from triggers.errors import TriggerError
from triggers.families.label_consistent import LabelConsistent, pgd
from triggers.store import dump, load


@pytest.fixture
def fitted(victim):
    return LabelConsistent(steps=5).fit(*victim, 1, torch.Generator())


@pytest.mark.parametrize(("margin", "amplitude"), [(0, 1.0), (2, 0.3)])
def test_four_corners_by_loops(images, margin, amplitude):
    expected = images.double().clone()
    for top in (margin, 20 - margin - 3):
        for left in (margin, 16 - margin - 3):
            for y in range(3):
                for x in range(3):
                    sign = -1 if (y + x) % 2 else 1
                    expected[:, :, top + y, left + x] += amplitude * sign
    stamped = LabelConsistent(margin=margin, amplitude=amplitude).stamp(images)
    assert torch.allclose(stamped.double(), expected.clamp(0, 1), atol=1e-6)


def test_full_amplitude_shows_the_checker_itself(images):
    corner = LabelConsistent().stamp(images)[:, :, -3:, -3:]
    assert torch.equal(corner, torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]).expand(5, 3, 3, 3))


def test_pgd_on_a_linear_model_walks_straight_to_the_edge_of_the_ball():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 12, generator=draw)
    images = torch.rand(6, 3, 2, 2, generator=draw)
    moved = pgd(lambda x: x.flatten(1) @ weight.T, images, 0, 0.1, 0.03, 4)
    away = (weight[1] - weight[0]).sign().reshape(3, 2, 2)
    assert torch.allclose(moved, (images + 0.1 * away).clamp(0, 1), atol=1e-6)
    two = pgd(lambda x: x.flatten(1) @ weight.T, images, 0, 0.1, 0.03, 2)
    assert torch.allclose(two, (images + 0.06 * away).clamp(0, 1), atol=1e-6)


def test_poison_stays_in_the_ball_is_harder_and_carries_the_corners(victim, fitted, images):
    model, _, _ = victim
    poison = fitted.poison(images)
    assert torch.equal(fitted.stamp(poison), poison)
    moved = pgd(model.network, images, 1, fitted.epsilon, fitted.step, fitted.steps)
    assert torch.equal(poison, fitted.stamp(moved))
    assert 0.9 * fitted.step * 5 < (moved - images).abs().max() <= fitted.epsilon + 1e-6
    losses = [F.cross_entropy(model.network(x), torch.ones(5, dtype=torch.int64)) for x in (images, moved)]
    assert losses[1] > losses[0]


def test_pgd_does_not_depend_on_its_batch(victim, images):
    whole, parts = (
        LabelConsistent(steps=5, batch=size).fit(*victim, 1, torch.Generator()).poison(images)
        for size in (100, 2)
    )
    assert torch.equal(whole, parts)


def test_a_loaded_trigger_can_be_stamped_not_planted(fitted, tmp_path, images):
    path = tmp_path / "t.safetensors"
    path.write_bytes(dump(fitted))
    loaded, _ = load(path)
    assert torch.equal(loaded.stamp(images), fitted.stamp(images))
    with pytest.raises(TriggerError, match="fit it to that model first"):
        loaded.poison(images)


def test_refusals(fitted, images):
    with pytest.raises(TriggerError, match="3x20x16, not 1x20x16"):
        fitted.poison(images[:, :1])
