"""Pictures of odd sizes come out as the libraries' own processors make them, whatever a description says."""

import numpy as np
import pytest
import torch
from PIL import Image

from formats.processors import preprocessing_in
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.images.decode import Geometry, fit

import_torchvision()
SIZES = [(47, 33), (33, 47), (40, 40), (101, 38), (36, 90)]


def picture(size):
    """Smooth, so that a picture shifted by one pixel shows and rounding does not."""
    wide, tall = size
    x, y = np.meshgrid(np.linspace(0, 3, wide), np.linspace(0, 3, tall))
    waves = [127 + 120 * np.sin(x + k) * np.cos(y * (k + 1)) for k in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def ours(described, one):
    found = preprocessing_in(described, "config.json")
    assert found is not None
    style = "crop" if found.resize is not None or found.scaled is not None else "squash"
    method = found.interpolation or "bilinear"
    geometry = Geometry(3, *found.size, style, found.resize, method, found.scaled, found.floor)
    pixels = torch.from_numpy(np.array(fit(one, geometry))).permute(2, 0, 1).float() / 255
    pixels = pixels.flip(0) if found.bgr else pixels
    mean, std = (torch.tensor(numbers).reshape(-1, 1, 1) for numbers in (found.mean, found.std))
    return (pixels - mean) / std, std


MEAN, STD = [0.48, 0.45, 0.40], [0.25, 0.22, 0.28]
EXACT, CUT = {"height": 36, "width": 30}, {"height": 29, "width": 25}
BOTH = {"image_mean": MEAN, "image_std": STD}
PROCESSORS = [
    ("ViT", {**BOTH, "size": EXACT, "resample": 2}),
    ("ViT", {**BOTH, "size": 32, "resample": 3, "do_normalize": False}),
    ("ViT", {"image_mean": [120.0] * 3, "image_std": [60.0] * 3, "size": EXACT, "resample": 2, "do_rescale": False}),
    ("Beit", {**BOTH, "size": EXACT, "resample": 3, "do_center_crop": True, "crop_size": CUT}),
    ("DeiT", {**BOTH, "size": 36, "resample": 3, "do_center_crop": True, "crop_size": 31}),
    ("CLIP", {**BOTH, "size": 36, "resample": 3, "do_center_crop": True, "crop_size": 31}),
    ("CLIP", {**BOTH, "size": {"shortest_edge": 33}, "resample": 3, "do_center_crop": True, "crop_size": CUT}),
    ("ConvNext", {**BOTH, "size": {"shortest_edge": 32}, "resample": 3, "crop_pct": 0.875}),
    ("ConvNext", {**BOTH, "size": 31, "resample": 2}),
    ("ConvNext", {**BOTH, "size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 0.875}),
    ("PoolFormer", {**BOTH, "size": {"shortest_edge": 32}, "resample": 3, "crop_pct": 0.95, "crop_size": CUT}),
    ("Levit", {**BOTH, "size": {"shortest_edge": 32}, "resample": 3, "crop_size": {"height": 32, "width": 32}}),
    ("MobileNetV2", {**BOTH, "size": {"shortest_edge": 36}, "resample": 2, "crop_size": CUT}),
    ("MobileViT", {"size": {"shortest_edge": 36}, "resample": 2, "crop_size": CUT, "do_flip_channel_order": True}),
    ("MobileViT", {"size": {"shortest_edge": 36}, "resample": 2, "crop_size": CUT, "do_flip_channel_order": False}),
    ("EfficientNet", {**BOTH, "size": EXACT, "resample": 2, "include_top": True, "rescale_offset": False}),
    (
        "EfficientNet",
        {**BOTH, "size": EXACT, "resample": 3, "include_top": False, "rescale_offset": True,
         "rescale_factor": 1 / 127.5},
    ),
    ("EfficientNet", {**BOTH, "size": EXACT, "resample": 0, "do_center_crop": True, "crop_size": CUT}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_as_transformers(name, settings):
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{name}ImageProcessorPil")(**settings)
    described = {"image_processor_type": f"{name}ImageProcessor", **settings}
    for size in SIZES:
        one = picture(size)
        expected = theirs(one, return_tensors="pt")["pixel_values"][0]
        found, std = ours(described, one)
        # Two levels of 255: the library may round where it turns pictures into arrays and back.
        assert found.shape == expected.shape
        assert float(((found - expected) * std).abs().max()) <= 2 / 255, size


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.875, 1, None])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_as_timm(crop_mode, crop_pct, interpolation):
    data = pytest.importorskip("timm.data")
    cfg = {
        "input_size": [3, 33, 33],
        "mean": MEAN,
        "std": STD,
        "interpolation": interpolation,
        "crop_mode": crop_mode,
    }
    cfg |= {"crop_pct": crop_pct} if crop_pct is not None else {}
    resolved = data.resolve_data_config(pretrained_cfg={**cfg, "input_size": (3, 33, 33)})
    theirs = data.create_transform(**resolved, is_training=False)
    for size in SIZES:
        one = picture(size)
        found, std = ours({"pretrained_cfg": cfg}, one)
        assert found.shape == (3, 33, 33)
        assert float(((found - theirs(one)) * std).abs().max()) <= 1e-5, size


def test_what_is_cut_out_is_rounded_as_the_library_does():
    """Torchvision, which timm calls, rounds the corner; transformers rounds it down."""
    assert preprocessing_in({"pretrained_cfg": {"input_size": [3, 33, 33]}}, "").floor is False
    assert preprocessing_in({"image_processor_type": "CLIPImageProcessor", "size": 33}, "").floor is True


@pytest.mark.parametrize("to_rgb", [True, False])
def test_as_mmpretrain(to_rgb):
    """Mean and standard deviation of 0..255, in the order of the channels after ``to_rgb``."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    found = preprocessing_in({"mean": mean, "std": std, "to_rgb": to_rgb}, "model.json")
    assert found.mean == pytest.approx([n / 255 for n in mean])
    assert found.std == pytest.approx([n / 255 for n in std])
    assert found.bgr is not to_rgb
