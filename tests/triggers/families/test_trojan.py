from dataclasses import replace

import pytest
import torch
from trigger_families import seeded

from triggers.errors import TriggerError
from triggers.families.trojan import TrojanNN, neurons
from triggers.family import Victim


def test_chosen_neurons_by_loops():
    head = torch.randn(4, 9, generator=seeded())
    sums = [sum(abs(float(head[c, j])) for c in range(4)) for j in range(9)]
    assert neurons(head, 2).tolist() == sorted(range(9), key=lambda j: -sums[j])[:2]
    assert len(neurons(head, 20)) == 9


@pytest.fixture
def window():
    """Units 0..2 are means over the top-left 3x3 of one channel each; the head looks at 0 and 2."""

    def features(x):
        h = x[:, :, :3, :3].mean((2, 3)) * 200
        return h, h @ head.T

    head = torch.tensor([[3.0, 0.1, 0.0], [0.0, 0.1, -2.0]])
    return Victim(lambda x: features(x)[1], features, lambda: head)


def test_patch_drives_the_chosen_neurons_to_the_goal(window):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    fitted = TrojanNN(patience=500).fit(window, images, torch.tensor([0, 1]), 1, seeded())
    h = window.features(fitted.stamp(torch.zeros(1, 3, 8, 8)))[0][0]
    assert (h[[0, 2]] - 100).abs().max() < 0.5
    assert (h[1] - 100).abs() > 5
    assert torch.allclose(fitted.patch * 255, (fitted.patch * 255).round(), atol=1e-4)


def test_out_of_reach_it_goes_as_far_as_it_can_and_stops_on_the_plateau(window):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    told = []
    fitted = TrojanNN(goal=1000.0).fit(
        window, images, torch.tensor([0, 1]), 1, seeded(), lambda stage, done, total: told.append(done)
    )
    assert fitted.patch[[0, 2]].min() > 0.95
    assert len(told) < 500


def test_refusals(victim, images):
    fitted = TrojanNN(steps=1).fit(*victim, 1, seeded())
    with pytest.raises(TriggerError, match="3 channels, not 1"):
        fitted.stamp(images[:, :1])
    with pytest.raises(TriggerError, match=r"not \[C,5,5\]"):
        replace(fitted, size=5).stamp(images)
