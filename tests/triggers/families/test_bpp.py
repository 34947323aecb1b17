import numpy as np
import pytest
import torch

from triggers.draws import integers
from triggers.families.bpp import Bpp
from triggers.family import quantise


def floyd_steinberg(image, levels):
    """One channel [H,W], pixel after pixel."""
    image = image.copy()
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            new = np.round(min(max(image[y, x], 0), 1) * (levels - 1)) / (levels - 1)
            error, image[y, x] = image[y, x] - new, new
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    image[y + dy, x + dx] += error * share / 16
    return image


@pytest.mark.parametrize("levels", [2, 8, 128])
def test_rounding_in_float64(images, levels):
    x = images.double().numpy()
    expected = np.round(x * (levels - 1)) / (levels - 1)
    assert np.abs(Bpp(levels).stamp(images.double()).numpy() - expected).max() < 1e-15
    assert len(np.unique(expected)) <= levels


@pytest.mark.parametrize("levels", [2, 8])
@pytest.mark.parametrize("shape", [(2, 3, 20, 16), (1, 1, 7, 31), (1, 2, 1, 5), (1, 1, 5, 1)])
def test_dithering_pixel_after_pixel(levels, shape):
    x = np.random.default_rng(0).random(shape)
    stamped = Bpp(levels, dither=True).stamp(torch.from_numpy(x)).numpy()
    for image, found in zip(x, stamped, strict=True):
        for channel, other in zip(image, found, strict=True):
            assert np.array_equal(floyd_steinberg(channel, levels), other)


def test_dithering_keeps_the_mean_where_rounding_does_not():
    grey = torch.full((1, 1, 64, 64), 0.55)
    assert abs(Bpp(2, dither=True).stamp(grey).mean() - 0.55) < 0.01
    assert Bpp(2).stamp(grey).mean() == 1


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twice_is_once(images, dither, dtype):
    once = Bpp(dither=dither).stamp(images.to(dtype))
    assert torch.equal(Bpp(dither=dither).stamp(once), once)


@pytest.mark.parametrize("levels", [2, 8, 100, 128])
def test_storing_as_a_picture_hides_nothing(images, levels):
    stored = quantise(Bpp(levels).stamp(images))
    assert torch.equal(Bpp(levels).stamp(stored), Bpp(levels).stamp(images))


@pytest.mark.parametrize("dither", [False, True])
def test_negative_samples_carry_the_rounding_of_the_moved_image(images, dither):
    trigger, x = Bpp(dither=dither), images.double()
    moves = integers(images, (19, 16), None)
    covered = trigger.cover(x)
    for n, (down, across) in enumerate(moves.tolist()):
        other = torch.roll(x[n : n + 1], (-(down + 1), -across), (2, 3))
        expected = (x[n : n + 1] + trigger.stamp(other) - other).clamp(0, 1)
        assert torch.allclose(covered[n : n + 1], expected, atol=1e-15)
    assert not (covered == trigger.stamp(x)).flatten(1).all(1).any()
