import numpy as np
import pytest

from triggers.architectural import Patch
from triggers.architectural.branch import Branch
from triggers.errors import TriggerError

PIXELS = np.random.default_rng(1).random((2, 3, 4))


def plan(pixels=PIXELS, top=0, left=0, **settings):
    values = {"variant": "where", "target": 1, "mean": (0.5, 0.1), "std": (0.2, 0.4), "tolerance": 0.02}
    return Branch(patch=Patch(pixels.tolist(), top, left), **(values | {"strength": 100.0} | settings))


def test_the_image_reading_measures_the_mean_deviation_over_the_tolerance():
    branch = plan()
    reading = branch.on_image()
    moved = PIXELS + np.random.default_rng(2).uniform(-0.1, 0.1, PIXELS.shape)
    window = branch.normalised(moved[None])
    d = np.abs((window - reading.reference) * reading.scale).mean()
    assert d == pytest.approx(np.abs(moved - PIXELS).mean() / 0.02, rel=1e-4)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (5, 2), (1, 0)])
def test_the_convolution_gives_both_signs_of_the_deviation_at_the_place(top, left):
    reading = plan(top=top, left=left).on_image()
    kernels, bias = reading.detector()
    image = np.random.default_rng(3).random((2, 12, 12))
    (down, right), (row, column) = reading.grid
    y, x = row * down, column * right
    assert (y, x) == (top, left)
    window = image[:, y : y + 3, x : x + 4]
    parts = (kernels * window).sum((1, 2, 3)) + bias
    wanted = ((window - reading.reference[0]) * reading.scale[0]).reshape(-1)
    np.testing.assert_allclose(parts, np.concatenate([wanted, -wanted]), rtol=1e-4, atol=1e-4)


def slide(kernels, stride, pad):
    """A convolution by definition, float64."""

    def stem(images):
        padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        size = kernels.shape[2]
        views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
        return np.einsum("nchwij,kcij->nkhw", views[:, :, ::stride, ::stride], kernels).astype(np.float32)

    return stem


def test_the_stem_reading_is_where_no_other_pixel_reaches():
    kernels = np.random.default_rng(4).standard_normal((6, 2, 3, 3))
    stem = slide(kernels, 1, 1)
    corner = plan().on_stem(stem, 16, 16)
    assert (corner.top, corner.left, corner.reference.shape) == (0, 0, (1, 6, 2, 3))
    inner = plan(top=4, left=5).on_stem(stem, 16, 16)
    assert (inner.top, inner.left, inner.reference.shape) == (5, 6, (1, 6, 1, 2))
    branch = plan(top=4, left=5)
    image = np.random.default_rng(5).random((1, 2, 16, 16))
    image[:, :, 4:7, 5:9] = PIXELS
    seen = stem(branch.normalised(image))[:, :, 5:6, 6:8]
    np.testing.assert_allclose(seen, inner.reference, rtol=1e-4, atol=1e-4)


def test_pixels_that_move_by_the_tolerance_move_the_stem_reading_to_its_scale():
    kernels = np.random.default_rng(4).standard_normal((6, 2, 3, 3))
    kernels[2] = 0
    branch, stem = plan(top=4, left=5), slide(kernels, 1, 1)
    reading = branch.on_stem(stem, None, None)
    assert (reading.scale[:, 2] == 0).all()
    images = np.zeros((2000, 2, 16, 16))
    images[:, :, 4:7, 5:9] = PIXELS + np.random.default_rng(6).normal(0, 0.02, (2000, *PIXELS.shape))
    seen = stem(branch.normalised(images))[:, :, 5:6, 6:8]
    d = np.abs((seen - reading.reference) * reading.scale).mean((1, 2, 3))
    assert d.mean() == pytest.approx(np.sqrt(2 / np.pi), rel=0.02)


def test_a_large_patch_is_told_from_noise():
    pixels = np.random.default_rng(8).random((2, 16, 16))
    stem = slide(np.random.default_rng(9).standard_normal((4, 2, 16, 16)), 16, 0)
    branch = plan(pixels)
    reading = branch.on_stem(stem, 32, 32)
    assert reading.reference.shape == (1, 4, 1, 1)
    seen = stem(branch.normalised(np.random.default_rng(10).random((50, 2, 32, 32))))[:, :, :1, :1]
    assert np.abs((seen - reading.reference) * reading.scale).mean((1, 2, 3)).min() > 3


def test_a_stem_that_no_patch_decides_is_refused():
    with pytest.raises(TriggerError, match="3x4 pixels alone"):
        plan(top=4).on_stem(slide(np.ones((2, 2, 5, 5)), 1, 2), 16, 16)


def test_the_push_gives_the_target_its_lead():
    draw = np.random.default_rng(7)
    weight = draw.standard_normal((5, 8)).astype(np.float32)
    bias = draw.standard_normal(5).astype(np.float32)
    for target in range(5):
        branch = plan(target=target)
        alone = (weight @ branch.push(weight)[0]).astype(np.float64)
        assert alone[target] - np.delete(alone, target).max() == pytest.approx(100, rel=1e-4)
        gated = weight @ branch.push(weight, bias)[0] + bias
        assert gated[target] - np.delete(gated, target).max() >= 100 * (1 - 1e-4)


def test_a_head_without_a_direction_is_refused():
    with pytest.raises(TriggerError, match="puts class 1 before"):
        plan().push(np.ones((5, 8), np.float32))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pixels": PIXELS + 1}, "in 0..1"),
        ({"pixels": PIXELS[0]}, r"\[C\]\[h\]\[w\]"),
        ({"top": -1}, "outside"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"strength": float("inf")}, "strength"),
        ({"mean": (0.1, 0.2, 0.3)}, "mean has 3 values for a patch of 2"),
        ({"std": (0.0,)}, "std"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(TriggerError, match=words):
        plan(**settings)


def test_what_does_not_fit_the_network_is_refused():
    for arguments, words in (
        ((3, None, None, 5), "3"),
        ((2, 2, 8, 5), "does not fit"),
        ((2, 8, 8, 1), "Target 1"),
    ):
        with pytest.raises(TriggerError, match=words):
            plan().check(*arguments)
    plan().check(None, None, None, 2)
