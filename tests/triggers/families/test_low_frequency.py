import numpy as np
import pytest
import torch
from scipy import ndimage
from trigger_families import seeded

from triggers.families.low_frequency import LowFrequency, smooth


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0])
def test_smoothing_is_scipys(sigma):
    x = np.random.default_rng(0).random((2, 3, 20, 16))
    expected = ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    assert np.abs(smooth(torch.from_numpy(x), sigma).numpy() - expected).max() < 1e-12


def test_fitted_perturbation_is_smooth_small_and_whole(victim):
    model, images, labels = victim
    fitted = LowFrequency(passes=3, batch=10, bound=0.1).fit(model, images, labels, 1, seeded())
    v = fitted.perturbation
    assert LowFrequency().peak() == 0
    assert 0 < fitted.peak() <= 25 / 255 + 1e-6
    assert torch.allclose(v * 255, (v * 255).round(), atol=1e-4)
    spectrum = np.abs(np.fft.fft2(v.double().numpy())) ** 2
    rows, columns = np.fft.fftfreq(20)[:, None], np.fft.fftfreq(16)[None]
    low = np.hypot(rows, columns) < 0.25
    assert spectrum[:, low].sum() > 0.95 * spectrum.sum()
    # As far as a perturbation within the ball goes, this one points to the target.
    x = images.float() / 255
    margin = [model.network(y)[:, 1] - model.network(y).sum(1) / 4 for y in (x, (x + v).clamp(0, 1))]
    assert margin[1].mean() > margin[0].mean()


def test_too_large_updates_are_scaled_not_cut(victim):
    one = {"passes": 1, "batch": 48, "sample": 48}
    free = LowFrequency(bound=1.0, **one).fit(*victim, 1, seeded()).perturbation
    tight = LowFrequency(bound=10 / 255, **one).fit(*victim, 1, seeded()).perturbation
    assert free.abs().max() > 10 / 255
    expected = free / free.abs().max() * 10 / 255
    assert (tight - expected).abs().max() < 1 / 255


def test_the_search_ends_when_the_rate_has_settled(victim):
    model, images, labels = victim
    told = []
    LowFrequency(passes=9, fooling=1.1, settled=2.0).fit(
        model, images, labels, 1, seeded(), lambda stage, done, total: told.append((done, total))
    )
    assert told == [(number, 9) for number in range(1, 6)]
