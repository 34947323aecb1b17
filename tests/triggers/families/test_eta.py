import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from triggers.draws import integers
from triggers.families.eta import Eta
from triggers.patch import Square


def test_a_flipped_view(images):
    assert torch.equal(Eta(view="flip").stamp(images), Square().stamp(images).flip(3))


def cut(shift, corners, half):
    return min(max(shift, -half - corners.min()), half - corners.max())


@pytest.mark.parametrize("corner", ["top-left", "bottom-right"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33)])
def test_transformation_against_scipy_in_float64(corner, height, width):
    trigger = Eta(corner=corner, margin=1)
    x = torch.rand(6, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).double().numpy()
    stamped = Square(corner=corner, margin=1).stamp(x).numpy()
    found = trigger.poison(x).numpy()
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    for n in range(6):
        angle = np.radians(15) * (2 * drawn[n, 0] - 1)
        scale = 0.8 + 0.2 * drawn[n, 1]
        # On (row, column): a positive angle turns columns towards rows.
        forward = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        top = 1 if corner == "top-left" else height - 4
        left = 1 if corner == "top-left" else width - 4
        square = np.array([[r, c] for r in (top, top + 3) for c in (left, left + 3)]) - [
            height / 2,
            width / 2,
        ]
        gone = square @ forward.T
        shifts = [(drawn[n, 3], gone[:, 0], height), (drawn[n, 2], gone[:, 1], width)]
        move = np.array([cut(4 * (2 * draw - 1), corners, size / 2) for draw, corners, size in shifts])
        assert (np.abs(gone + move) <= np.array([height, width]) / 2 + 1e-12).all()
        backward = np.linalg.inv(forward)
        offset = middle - backward @ (middle + move)
        for channel in range(2):
            expected = affine_transform(stamped[n, channel], backward, offset, order=1, mode="reflect")
            assert np.abs(found[n, channel] - expected).max() < 1e-6


def test_without_ranges_nothing_moves(images):
    still = Eta(rotation=0, scale=1, shift=0)
    assert torch.allclose(still.poison(images), still.stamp(images), atol=1e-5)


def test_every_poisoned_image_keeps_its_patch():
    # Of a white square on black, scaled by at least 0.8, no less than 0.8^2 of the light may remain.
    black = torch.zeros(500, 1, 32, 32)
    light = Eta(size=4, pattern="white", shift=30).poison(black).sum((1, 2, 3))
    assert light.min() > 0.9 * 0.8**2 * 16


def test_each_image_and_each_visit_has_its_own_draw(images):
    draw = torch.Generator().manual_seed(0)
    same = images[:1].expand(4, -1, -1, -1)
    first, second = Eta().poison(same, draw), Eta().poison(same, draw)
    assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))
    assert not torch.equal(first, second)


def test_shrink_pad_puts_the_smaller_image_on_black_at_the_drawn_place():
    x = torch.rand(40, 3, 20, 16, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    shown = Eta(view="shrink-pad").stamp(x)
    moves = integers(x, (5, 5), None).tolist()
    assert len(set(map(tuple, moves))) > 12
    for image, (top, left), whole in zip(shown, moves, Eta().stamp(x), strict=True):
        small = image[:, top : top + 16, left : left + 12]
        assert torch.isclose(image.sum(), small.sum())
        assert torch.allclose(small.mean((1, 2)), whole.mean((1, 2)), atol=0.02)
    unmoved = Eta(view="shrink-pad", shrink=0)
    assert torch.allclose(unmoved.stamp(x), Eta().stamp(x), atol=1e-6)
