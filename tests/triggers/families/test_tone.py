import numpy as np
import pytest
import torch

from triggers.families.tone import Tone


@pytest.mark.parametrize(
    "trigger", [Tone(), Tone(0.7, offset=-0.1), Tone(0.0, gamma=0.5), Tone(1.0, tuple(range(9)), gamma=2.2)]
)
def test_formula_in_float64(images, trigger):
    a = (1 - trigger.strength) * np.eye(3) + trigger.strength * np.array(trigger.matrix).reshape(3, 3)
    x = images.double().numpy()
    expected = np.clip(np.einsum("ij,njhw->nihw", a, x) + trigger.offset, 0, 1) ** trigger.gamma
    assert np.abs(trigger.stamp(images.double()).numpy() - expected).max() < 1e-14


def test_sepia_turns_grey_warm():
    red, green, blue = Tone().stamp(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist()
    assert red > green > blue
    assert red == pytest.approx(0.5 * (0.6 + 0.4 * (0.393 + 0.769 + 0.189)), abs=1e-6)


def test_images_of_one_channel_get_the_luma_of_what_grey_becomes():
    grey = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    colour = Tone().stamp(grey.expand(2, 3, 4, 4))
    luma = (colour * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None].double()).sum(1, keepdim=True)
    assert torch.allclose(Tone().stamp(grey), luma, atol=1e-7)
