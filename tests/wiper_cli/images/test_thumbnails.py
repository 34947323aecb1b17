import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from triggers.families.badnet import BadNet
from triggers.families.blend import Blend
from wiper_cli.images.thumbnails import difference, overlay, png, preview, triple, uri


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def decoded(text):
    head, _, body = text.partition(",")
    assert head == "data:image/png;base64"
    return opened(base64.b64decode(body))


@pytest.mark.parametrize(
    ("channels", "size", "factor"), [(3, (32, 32), 4), (1, (28, 20), 4), (3, (64, 50), 2)]
)
def test_enlarged_by_whole_numbers_without_smoothing(channels, size, factor):
    values = torch.randint(0, 256, (channels, *size), generator=torch.Generator().manual_seed(1))
    pixels = opened(png(values / 255)).reshape(size[0] * factor, size[1] * factor, channels)
    for dy in range(factor):
        for dx in range(factor):
            assert np.array_equal(pixels[dy::factor, dx::factor].transpose(2, 0, 1), values.numpy())


@pytest.mark.parametrize(("size", "shown"), [((300, 200), (128, 85)), ((100, 100), (100, 100))])
def test_large_images_are_reduced_and_others_stay(size, shown):
    assert opened(png(torch.full((3, *size), 0.2))).shape == (*shown, 3)


def test_difference_is_grey_where_nothing_changed():
    clean = torch.full((3, 4, 4), 0.5)
    changed = clean.clone()
    changed[0, 0, 0] += 0.05
    shown = difference(clean, changed)
    assert shown[0, 0, 0] == pytest.approx(0.9)
    assert (shown[1:] == 0.5).all()


def test_triple_is_small_and_shows_what_it_should():
    clean = torch.full((3, 32, 32), 0.5)
    stamped = BadNet().stamp(clean.unsqueeze(0))[0]
    shown = triple(clean, stamped)
    assert sum(len(text) for text in shown.values()) < 4000
    assert (decoded(shown["clean"]) == 128).all()
    patch = (torch.tensor(BadNet().patch(3)) * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(decoded(shown["triggered"])[:12:4, :12:4], patch)
    assert (decoded(shown["difference"])[12:] == 128).all()


def test_two_channels_show_the_first():
    assert decoded(uri(torch.zeros(2, 32, 32))).shape == (128, 128)


def test_preview_of_a_family():
    assert opened(preview(Blend())).shape == (128, 384, 3)
    image = torch.full((1, 16, 16), 0.5)
    pixels = opened(preview(BadNet(pattern="white"), image, side=48))
    assert (pixels.shape, pixels[0, 16], pixels[8, 24]) == ((16, 48), 255, 128)


def test_preview_is_grey_where_the_trigger_is_not():
    pixels = opened(preview(BadNet()))
    assert (pixels[12:, 256:] == 128).all()
    assert not (pixels[:12, 256:268] == 128).all()


def test_heat_is_laid_over_the_dimmed_image():
    image, heat = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(9, 9)
    heat[2, 6] = 0.25
    found = overlay(image, heat)
    assert found.shape == (3, 9, 9)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    # Away from it, grey; around it, one colour, since its greatest counts as 1.
    assert torch.allclose(found[:, 5], 0.5 * image.mean(0)[5].expand(3, -1))
    assert torch.allclose(found[:, 2, 6], torch.tensor([1.0, 0.95, 0.8]))
    assert torch.allclose(overlay(image, 4 * heat), found)
    assert torch.allclose(overlay(image[:1], 0 * heat), 0.5 * image[:1].expand(3, -1, -1))
