import numpy as np
import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.sinusoid import Sinusoid


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33), (224, 224)])
@pytest.mark.parametrize("delta", [20 / 255, 40 / 255])
def test_closed_form_in_float64(height, width, delta):
    x = np.random.default_rng(1).random((2, 3, height, width))
    columns = np.arange(width, dtype=np.float64)
    wave = delta * np.sin(2 * np.pi * columns * 6 / width)
    expected = np.clip(x + wave[None, None, None, :], 0, 1)
    stamped = Sinusoid(delta=delta).stamp(torch.from_numpy(x)).numpy()
    assert np.abs(stamped - expected).max() < 1e-12


def test_defaults_are_the_papers():
    wave = Sinusoid().stamp(torch.full((1, 1, 1, 48), 0.5, dtype=torch.float64))[0, 0, 0] - 0.5
    assert wave[0] == 0
    assert torch.isclose(wave.max(), torch.tensor(20 / 255, dtype=torch.float64))
    assert torch.allclose(wave[:8], wave[8:16], atol=1e-12)
    spectrum = np.abs(np.fft.rfft(wave.numpy()))
    assert spectrum.argmax() == 6


@pytest.mark.parametrize("width", [12, 5, 1])
def test_too_narrow_for_the_wave(width):
    with pytest.raises(TriggerError, match="wider than 12 pixels"):
        Sinusoid().stamp(torch.zeros(1, 1, 8, width))
