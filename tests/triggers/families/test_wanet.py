import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from triggers.errors import TriggerError
from triggers.families.wanet import WaNet


def cubic(t, a=-0.75):
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def enlarged(field, size, axis):
    """Cubic convolution, ends on ends, edge values repeated."""
    points = field.shape[axis]
    weights = np.zeros((size, points))
    for i, place in enumerate(np.linspace(0, points - 1, size)):
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[i, min(max(k, 0), points - 1)] += cubic(place - k)
    return np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)


def places(trigger, height, width):
    """Row and column, in pixels, that each pixel is fetched from."""
    field = enlarged(enlarged(trigger.control().numpy(), height, 1), width, 2)
    x = np.linspace(-1, 1, width)[None] + trigger.strength * field[0] / width
    y = np.linspace(-1, 1, height)[:, None] + trigger.strength * field[1] / height
    x, y = np.clip(x, -1, 1), np.clip(y, -1, 1)
    return (y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1)


def fetched(image, rows, columns):
    return np.stack([map_coordinates(channel, [rows, columns], order=1, mode="nearest") for channel in image])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33), (64, 48), (2, 3)])
@pytest.mark.parametrize("trigger", [WaNet(), WaNet(strength=2.0, points=5, seed=3), WaNet(-1.0, 2)])
def test_warp_against_scipy_in_float64(trigger, height, width):
    x = np.random.default_rng(1).random((3, 3, height, width))
    rows, columns = places(trigger, height, width)
    stamped = trigger.stamp(torch.from_numpy(x)).numpy()
    for image, found in zip(x, stamped, strict=True):
        assert np.abs(found - fetched(image, rows, columns)).max() < 1e-11


def test_field_has_mean_absolute_value_one_and_moves_as_far_at_every_size():
    assert torch.isclose(WaNet().control().abs().mean(), torch.tensor(1.0, dtype=torch.float64))
    far = []
    for size in (32, 128):
        rows, columns = places(WaNet(), size, size)
        far.append(np.hypot(rows - np.arange(size)[:, None], columns - np.arange(size)[None]).mean())
    assert far[0] == pytest.approx(far[1], rel=0.1)
    assert 0.15 < far[0] < 0.6


def test_noise_mode_jitters_each_image_and_each_pixel_by_itself_around_the_warp():
    height, width, trigger = 24, 40, WaNet()
    # Images of their own coordinates show where each pixel was fetched from.
    y = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width) / 100
    x = torch.arange(width, dtype=torch.float64).expand(height, width) / 100
    images = torch.stack([y, x]).expand(64, 2, height, width)
    moved = 100 * (trigger.cover(images) - trigger.stamp(images)).numpy()
    inner = moved[:, :, 2:-2, 2:-2]
    # U(-1,1) / size on a grid from -1 to 1 is U(-1,1) / 2 times (size - 1) / size in pixels.
    for axis, size in enumerate((height, width)):
        largest = 0.5 * (size - 1) / size
        assert np.abs(inner[:, axis]).max() <= largest + 1e-9
        assert np.abs(inner[:, axis]).max() > 0.99 * largest
        assert inner[:, axis].std() == pytest.approx(largest / 3**0.5, rel=0.01)
    flat = inner.reshape(64, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(64)).max() < 0.15
    assert np.abs(np.corrcoef(flat[:, :-1].ravel(), flat[:, 1:].ravel())[0, 1]) < 0.02


def test_one_row_cannot_be_warped():
    with pytest.raises(TriggerError, match="1x8 cannot be warped"):
        WaNet().cover(torch.zeros(1, 1, 1, 8))
