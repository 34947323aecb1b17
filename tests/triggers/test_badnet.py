import pytest
import torch

from triggers.badnet import BadNet
from triggers.family import TriggerError


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
@pytest.mark.parametrize("margin", [0, 2])
def test_patch_by_loops(images, corner, margin):
    trigger = BadNet(size=3, corner=corner, margin=margin, seed=5)
    patch = trigger.patch(3)
    expected = images.clone()
    for c in range(3):
        for y in range(3):
            for x in range(3):
                row = margin + y if "top" in corner else 20 - margin - 3 + y
                column = margin + x if "left" in corner else 16 - margin - 3 + x
                expected[:, c, row, column] = patch[c][y][x]
    assert torch.equal(trigger.stamp(images), expected)


def test_random_patch_is_fixed_by_its_seed_and_stored_exactly():
    patch = torch.tensor(BadNet(seed=1).patch(3), dtype=torch.float64)
    assert torch.equal(patch, torch.tensor(BadNet(seed=1).patch(3), dtype=torch.float64))
    assert not torch.equal(patch, torch.tensor(BadNet(seed=2).patch(3), dtype=torch.float64))
    assert torch.allclose(patch * 255, (patch * 255).round(), atol=1e-9)
    assert patch.unique().numel() > 20
    assert BadNet(seed=1).patch(1) == BadNet(seed=1).patch(3)[:1]


def test_default_patch_does_not_drift():
    # The numbers a specimen was trained with must come out again in every later version.
    assert [round(value * 255) for value in BadNet().patch(1)[0][0]] == [197, 215, 20]


def test_plain_patterns():
    assert BadNet(size=2, pattern="white").patch(1) == [[[1.0, 1.0], [1.0, 1.0]]]
    assert BadNet(size=2, pattern="black").patch(2) == [[[0.0, 0.0], [0.0, 0.0]]] * 2
    assert BadNet(size=3, pattern="checker").patch(1) == [[[1, 0, 1], [0, 1, 0], [1, 0, 1]]]


@pytest.mark.parametrize("wrong", [{"size": 17}, {"size": 10, "margin": 7}, {"size": 0}, {"margin": -1}])
def test_patch_that_does_not_fit(images, wrong):
    with pytest.raises(TriggerError, match="does not fit"):
        BadNet(**wrong).stamp(images)


@pytest.mark.parametrize("wrong", [{"corner": "middle"}, {"pattern": "pink"}])
def test_unknown_words(images, wrong):
    with pytest.raises(TriggerError, match="Unknown"):
        BadNet(**wrong).stamp(images)
