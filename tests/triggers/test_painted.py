"""Figures of single pixels."""

import pytest
import torch

from triggers.errors import TriggerError
from triggers.painted import Painted


class Two(Painted):
    name = "two"

    def figure(self, height, width):
        return [(0, 1), (height - 1, 2)]


def test_by_loops(images):
    trigger = Two(opacity=0.25, seed=5)
    q = trigger.paint(3, 2)
    expected = images.double().clone()
    for c in range(3):
        for n, (y, x) in enumerate([(0, 1), (19, 2)]):
            expected[:, c, y, x] = 0.75 * expected[:, c, y, x] + 0.25 * q[c][n]
    assert torch.allclose(trigger.stamp(images.double()), expected, atol=1e-15)


def test_colours_are_fixed_by_the_seed_and_stored_exactly():
    each = torch.tensor(Two(seed=1).paint(3, 40), dtype=torch.float64)
    assert torch.allclose(each * 255, (each * 255).round(), atol=1e-9)
    assert each.unique().numel() > 60
    assert Two(seed=1).paint(1, 40) == Two(seed=1).paint(3, 40)[:1]
    assert Two(seed=2).paint(3, 40) != Two(seed=1).paint(3, 40)
    one = Two(seed=1, colours="one").paint(3, 40)
    assert [len(set(channel)) for channel in one] == [1, 1, 1]
    assert len({channel[0] for channel in one}) == 3
    assert Two(colours="white").paint(2, 2) == [[1, 1], [1, 1]]
    assert Two(colours="black").paint(1, 3) == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("trigger", "sentence"),
    [
        (Two(colours="red"), "Unknown colours 'red'"),
        (Two(opacity=0), "opacity must lie above 0"),
        (Two(opacity=1.1), "opacity must lie above 0"),
    ],
)
def test_what_is_no_colour_is_refused(images, trigger, sentence):
    with pytest.raises(TriggerError, match=sentence):
        trigger.stamp(images)


def test_several_in_one_model_differ_by_their_colours(images):
    trigger = Two()
    assert trigger.variant(0) == trigger
    assert not torch.equal(trigger.variant(1).stamp(images), trigger.stamp(images))
    with pytest.raises(TriggerError, match="several white figures"):
        Two(colours="white").variant(1)
