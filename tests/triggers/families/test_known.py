import numpy as np
import pytest
import torch
from PIL import Image

from triggers.errors import TriggerError
from triggers.families.known import Known


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(2)
    pixels = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    mask = draw.integers(0, 256, (4, 5), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "t.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(np.dstack([pixels, mask])).save(tmp_path / "rgba.png")
    return tmp_path, pixels, mask


def by_loops(images, pixels, mask, alpha, left, top):
    expected = images.double().clone()
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            weight = alpha * mask[y, x] / 255
            for c in range(3):
                old = expected[:, c, top + y, left + x]
                expected[:, c, top + y, left + x] = (1 - weight) * old + weight * pixels[y, x, c] / 255
    return expected


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize(("position", "place"), [((0, 0), (0, 0)), ((7, 3), (7, 3)), ((-5, -4), (11, 16))])
def test_mask_opacity_and_place(images, files, alpha, position, place):
    folder, pixels, mask = files
    expected = by_loops(images, pixels, mask, alpha, *place)
    apart = Known(str(folder / "t.png"), str(folder / "m.png"), alpha, position)
    assert torch.allclose(apart.stamp(images).double(), expected, atol=1e-6)
    in_one = Known(str(folder / "rgba.png"), alpha=alpha, position=position)
    assert torch.equal(in_one.stamp(images), apart.stamp(images))


def test_without_a_mask_the_whole_picture_counts_black_included(images, tmp_path):
    Image.new("RGB", (3, 2), (0, 0, 0)).save(tmp_path / "black.png")
    stamped = Known(str(tmp_path / "black.png"), position=(1, 1)).stamp(images)
    assert (stamped[:, :, 1:3, 1:4] == 0).all()
    assert torch.equal(stamped[:, :, 3:], images[:, :, 3:])


def test_whole_picture_without_position(images, tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "full.png")
    stamped = Known(str(tmp_path / "full.png"), alpha=0.5).stamp(images)
    expected = 0.5 * images.numpy() + 0.5 * pixels.transpose(2, 0, 1)[None] / 255
    assert np.abs(stamped.numpy() - expected).max() < 1e-6


def test_grey_images_take_the_luma(tmp_path):
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "red.png")
    stamped = Known(str(tmp_path / "red.png"), position=(0, 0)).stamp(torch.zeros(1, 1, 4, 4))
    assert round(stamped[0, 0, 0, 0].item() * 255) == 76


def test_refusals(images, files):
    folder, _, _ = files
    picture, other = str(folder / "t.png"), str(folder / "other.png")
    Image.new("L", (9, 9)).save(other)
    for words, trigger in [
        ("--position", Known(picture)),
        *(
            ("reaches beyond", Known(picture, position=place))
            for place in [(12, 0), (0, 17), (-17, 0), (-4, 0)]
        ),
        ("alpha", Known(picture, alpha=-0.1, position=(0, 0))),
        ("one size", Known(picture, other, position=(0, 0))),
        ("no such file", Known(str(folder / "none.png"), position=(0, 0))),
    ]:
        with pytest.raises(TriggerError, match=words):
            trigger.stamp(images)
    with pytest.raises(TriggerError, match="1 or 3 channels"):
        Known(picture, position=(0, 0)).stamp(torch.zeros(1, 2, 8, 8))
