import math

import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.reflection import BEHIND, Reflection


def test_light_is_added_and_cut_off(images):
    trigger = Reflection(strength=0.5)
    scene = trigger.scene(3, 20, 16)
    expected = (images.double() + 0.5 * scene).clamp(0, 1)
    assert torch.equal(trigger.stamp(images.double()), expected)
    assert scene.min() >= 0
    assert scene.max() == 1


def test_the_surface_behind_gives_a_second_fainter_image():
    """One light: what lies at p in front lies at p + shift behind."""
    one = Reflection(lights=1, blur=0.01, shift=0.25, seed=3)
    both, front = (
        one.scene(1, 64, 64)[0],
        Reflection(lights=1, blur=0.01, shift=0.0, seed=3).scene(1, 64, 64)[0],
    )
    shifted = torch.zeros_like(front)
    shifted[16:, 16:] = front[:-16, :-16]
    expected = front + BEHIND * shifted
    assert torch.allclose(both, expected / expected.max(), atol=1e-3)


def test_edges_are_soft():
    """The logistic edge has a slope of 1 / (4 blur) of the light's height, per side of the image."""
    for blur in (0.02, 0.05):
        front = Reflection(lights=1, blur=blur, shift=0.0, seed=3).scene(1, 2000, 16)[0].amax(1)
        slope = float((front[1:] - front[:-1]).max()) * 2000
        assert math.isclose(slope, 1 / (4 * blur), rel_tol=0.2)


def test_the_scene_is_the_same_at_every_size_and_fixed_by_its_seed():
    small, large = Reflection().scene(2, 16, 16), Reflection().scene(3, 48, 48)
    assert torch.allclose(torch.nn.functional.avg_pool2d(large[:2], 3), small, atol=0.05)
    assert not torch.equal(Reflection(seed=1).scene(3, 16, 16), Reflection().scene(3, 16, 16))
    assert not torch.equal(large[0], large[1])


@pytest.mark.parametrize("parameters", [{"lights": 0}, {"blur": 0.0}, {"strength": 0.0}, {"strength": 1.5}])
def test_what_is_no_light_is_refused(images, parameters):
    with pytest.raises(TriggerError, match="needs a light"):
        Reflection(**parameters).stamp(images)
