import numpy as np
import pytest
import torch
from PIL import Image

from triggers.errors import TriggerError
from triggers.overlay import Mixture


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.55, 1.0])
def test_formula_in_float64(images, alpha):
    trigger = Mixture(alpha=alpha)
    x = images.double().numpy()
    k = trigger.picture(images).double().numpy()
    expected = (1 - alpha) * x + alpha * k[None]
    assert np.abs(trigger.stamp(images).numpy() - expected).max() < 1e-6


def test_mosaic_is_the_same_picture_at_every_size():
    small = Mixture(blocks=4).picture(torch.zeros(1, 3, 8, 12))
    large = Mixture(blocks=4).picture(torch.zeros(1, 3, 80, 120))
    assert torch.equal(large[:, ::10, ::10], small)
    assert torch.equal(Mixture(blocks=4).picture(torch.zeros(1, 1, 8, 12)), small[:1])
    assert small.unique().numel() == 3 * 16
    assert not torch.equal(Mixture(blocks=4, seed=1).picture(torch.zeros(1, 3, 8, 12)), small)


def test_picture_of_ones_own(images, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "k.png")
    trigger = Mixture(alpha=0.3, image=str(tmp_path / "k.png"))
    expected = 0.7 * images.double().numpy() + 0.3 * pixels.transpose(2, 0, 1)[None] / 255
    assert np.abs(trigger.stamp(images).numpy() - expected).max() < 1e-6
    assert trigger.stamp(torch.zeros(1, 1, 9, 9)).shape == (1, 1, 9, 9)
    with pytest.raises(TriggerError, match="1 or 3 channels"):
        trigger.stamp(torch.zeros(1, 4, 9, 9))


def test_refusals(images, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for name, words in {"missing.png": "no such file", "text.png": "not a picture"}.items():
        with pytest.raises(TriggerError, match=words):
            Mixture(image=str(tmp_path / name)).stamp(images)
