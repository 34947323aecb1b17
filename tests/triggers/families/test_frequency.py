import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from triggers.families.frequency import Ctrl, FTrojan

#: Full-range BT.601, from R, G, B to Y, Cb, Cr, as JPEG has it.
FORWARD = np.array([[0.299, 0.587, 0.114], [0, 0, 0], [0, 0, 0]])
FORWARD[1] = (np.array([0, 0, 1]) - FORWARD[0]) / 1.772
FORWARD[2] = (np.array([1, 0, 0]) - FORWARD[0]) / 1.402


def in_windows(channel, tall, wide, places, magnitude):
    """DCT of each whole window, magnitude added, and back; ``channel`` [H,W] on the 0..255 scale."""
    channel = channel.copy()
    for top in range(0, channel.shape[0] - tall + 1, tall):
        for left in range(0, channel.shape[1] - wide + 1, wide):
            part = np.s_[top : top + tall, left : left + wide]
            coefficients = dctn(channel[part], norm="ortho")
            for place in places:
                coefficients[place] += magnitude
            channel[part] = idctn(coefficients, norm="ortho")
    return channel


def by_transforms(image, tall, wide, places, magnitude):
    """The whole way round for one image [3,H,W] in 0..1."""
    y, cb, cr = np.tensordot(FORWARD, 255 * image, (1, 0))
    cb, cr = (in_windows(channel, tall, wide, places, magnitude) for channel in (cb, cr))
    rgb = np.tensordot(np.linalg.inv(FORWARD), np.stack([y, cb, cr]), (1, 0))
    return np.clip(rgb / 255, 0, 1)


@pytest.mark.parametrize("trigger", [Ctrl(), FTrojan(), FTrojan(50.0, (3, 0), 8)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (40, 75)])
def test_against_scipy_through_both_transforms(trigger, height, width):
    x = np.random.default_rng(0).random((2, 3, height, width))
    places = [(f, f) for f in trigger.frequencies]
    window = trigger.window
    expected = [by_transforms(image, window, window, places, trigger.magnitude) for image in x]
    assert np.abs(trigger.stamp(torch.from_numpy(x)).numpy() - expected).max() < 1e-12


def test_smaller_images_are_one_window_with_frequencies_in_proportion():
    x = np.random.default_rng(0).random((3, 28, 16))
    places = [(13, 7), (27, 15)]
    expected = by_transforms(x, 28, 16, places, 30.0)
    assert np.abs(FTrojan().stamp(torch.from_numpy(x)[None]).numpy()[0] - expected).max() < 1e-12


def test_grey_images_take_it_in_their_channel():
    x = np.random.default_rng(0).random((32, 40))
    expected = np.clip(in_windows(255 * x, 32, 32, [(15, 15), (31, 31)], 100.0) / 255, 0, 1)
    stamped = Ctrl().stamp(torch.from_numpy(x).expand(1, 2, 32, 40)).numpy()
    assert np.abs(stamped - expected).max() < 1e-12


def test_what_no_window_covers_stays(images):
    wide = torch.rand(1, 3, 40, 70, generator=torch.Generator().manual_seed(0))
    stamped = Ctrl().stamp(wide)
    assert torch.equal(stamped[:, :, 32:], wide[:, :, 32:])
    assert torch.equal(stamped[:, :, :, 64:], wide[:, :, :, 64:])


def test_brightness_stays_where_nothing_is_clipped():
    grey = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    luma = torch.tensor(FORWARD[0])[None, :, None, None]
    added = Ctrl().stamp(grey) - grey
    assert (luma * added).sum(1).abs().max() < 1e-12
    # 100 / 16 per coefficient at most, twice, times 1.772 in blue.
    assert 15 / 255 < added.abs().max() < 2 * 100 / 16 * 1.772 / 255
