import numpy as np
import pytest
import torch

from triggers.families.regular import Regular


@pytest.mark.parametrize(
    "trigger", [Regular(), Regular(step=3, phase=5), Regular(-0.2, 2, 3), Regular(0.1, 1)]
)
def test_formula_in_float64(images, trigger):
    mask = np.zeros((20, 16))
    for y in range(20):
        for x in range(16):
            mask[y, x] = y % trigger.step == trigger.phase // trigger.step
            mask[y, x] *= x % trigger.step == trigger.phase % trigger.step
    expected = np.clip(images.double().numpy() + trigger.amplitude * mask, 0, 1)
    assert np.abs(trigger.stamp(images.double()).numpy() - expected).max() < 1e-15


def test_defaults():
    added = Regular().stamp(torch.zeros(1, 3, 4, 4))[0] * 255
    assert torch.allclose(added[:, ::2, ::2], torch.tensor(10.0))
    assert torch.isclose(added.sum(), torch.tensor(3 * 4 * 10.0))


def test_variants_share_no_dot():
    grids = torch.stack([Regular().variant(i).stamp(torch.zeros(1, 1, 6, 6)) > 0 for i in range(4)])
    assert (grids.sum(0) == 1).all()
