import math

import pytest
import torch

from wiper_cli.purifiers.machinery.penalties import REGULARISERS, ar, lowest

POINTS = torch.tensor([-3.0, -1.5, -1.0, -0.4, 0.3, 1.0, 1.2, 4.0], dtype=torch.float64)


def test_values_of_equation_6():
    found = ar(torch.tensor([0.0, 0.5, 1.0, 2.0, -2.0], dtype=torch.float64)).tolist()
    assert found == pytest.approx([0.0, 0.5, 1.0, math.e, math.e])


@pytest.mark.parametrize("name", REGULARISERS)
def test_slope_is_the_derivative(name):
    penalty, slope = REGULARISERS[name]
    inside = POINTS[POINTS.abs() != 1]
    numeric = (penalty(inside + 1e-6) - penalty(inside - 1e-6)) / 2e-6
    torch.testing.assert_close(slope(inside), numeric, rtol=1e-6, atol=1e-8)
    assert slope(torch.zeros(1)) == 0


def test_lowest_takes_the_share():
    score = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert (lowest(score, 0.5).tolist(), lowest(score, 0.0).sum()) == ([[0, 1], [1, 0]], 0)
    assert lowest(score, 1.0).sum() == 4
