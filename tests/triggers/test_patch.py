import pytest
import torch

from triggers.patch import Square


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
@pytest.mark.parametrize("margin", [0, 2])
def test_patch_by_loops(images, corner, margin):
    trigger = Square(size=3, corner=corner, margin=margin, seed=5)
    patch = trigger.patch(3)
    expected = images.clone()
    for c in range(3):
        for y in range(3):
            for x in range(3):
                row = margin + y if "top" in corner else 20 - margin - 3 + y
                column = margin + x if "left" in corner else 16 - margin - 3 + x
                expected[:, c, row, column] = patch[c][y][x]
    assert torch.equal(trigger.stamp(images), expected)
    place = trigger.placed(3, 20, 16)
    assert torch.equal(
        expected[0, :, place.top : place.top + 3, place.left : place.left + 3], torch.tensor(patch)
    )


def test_random_patch_is_fixed_by_its_seed_and_stored_exactly():
    patch = torch.tensor(Square(seed=1).patch(3), dtype=torch.float64)
    assert torch.equal(patch, torch.tensor(Square(seed=1).patch(3), dtype=torch.float64))
    assert not torch.equal(patch, torch.tensor(Square(seed=2).patch(3), dtype=torch.float64))
    assert torch.allclose(patch * 255, (patch * 255).round(), atol=1e-9)
    assert patch.unique().numel() > 20
    assert Square(seed=1).patch(1) == Square(seed=1).patch(3)[:1]


def test_plain_patterns():
    assert Square(size=2, pattern="white").patch(1) == [[[1.0, 1.0], [1.0, 1.0]]]
    assert Square(size=2, pattern="black").patch(2) == [[[0.0, 0.0], [0.0, 0.0]]] * 2
    assert Square(size=3, pattern="checker").patch(1) == [[[1, 0, 1], [0, 1, 0], [1, 0, 1]]]
