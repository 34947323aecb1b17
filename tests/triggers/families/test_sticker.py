import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.sticker import Sticker


def test_by_hand(images):
    trigger = Sticker(size=7, corner="top-right", margin=1, opacity=(0.3, 0.7))
    picture, mask = trigger.picture(3)
    expected = images.double().clone()
    expected[:, :, 1:8, 8:15] = (1 - 0.5 * mask) * expected[:, :, 1:8, 8:15] + 0.5 * mask * picture
    assert torch.allclose(trigger.stamp(images.double()), expected, atol=1e-15)


def test_the_disc_is_opaque_inside_and_falls_off_smoothly():
    picture, mask = Sticker(size=11, softness=0.5).picture(3)
    along = mask[5, 5:].tolist()
    assert along == sorted(along, reverse=True)
    assert along[:3] == [1, 1, 1]
    assert 0 < along[-1] < 0.3
    assert mask[0, 0] == 0
    assert torch.equal(mask, mask.T)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.unique().numel() > 250  # shaded and mottled
    assert torch.equal(Sticker(size=11).picture(1)[0], picture[:1])
    assert not torch.equal(Sticker(size=11, seed=1).picture(3)[0], picture)


def test_in_training_opacity_varies_from_image_to_image_within_its_bounds():
    black, trigger = torch.zeros(64, 3, 20, 16), Sticker(opacity=(0.6, 0.9))
    picture = trigger.picture(3)[0]
    shares = (
        trigger.poison(black, torch.Generator().manual_seed(1))[:, 0, 13, 9] / picture[0, 4, 4]
    ).tolist()
    assert 0.6 <= min(shares) < 0.65
    assert 0.85 < max(shares) <= 0.9


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"opacity": (0.9, 0.6)}, "opacity must rise"),
        ({"opacity": (0.0, 0.6)}, "opacity must rise"),
        ({"opacity": (0.5, 1.2)}, "opacity must rise"),
        ({"softness": 0.0}, "softness lie above 0"),
        ({"size": 15}, "15x15 patch 2 pixels from the edge does not fit"),
        ({"size": 0}, "does not fit"),
    ],
)
def test_what_is_no_sticker_is_refused(images, parameters, sentence):
    with pytest.raises(TriggerError, match=sentence):
        Sticker(**parameters).stamp(images)
