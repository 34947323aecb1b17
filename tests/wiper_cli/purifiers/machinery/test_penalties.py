import math

import pytest
import torch

from wiper_cli.purifiers.machinery.penalties import REGULARISERS, ar, ar_slope, lowest

POINTS = torch.tensor([-3.0, -1.5, -1.0, -0.4, 0.3, 1.0, 1.2, 4.0], dtype=torch.float64)


def test_values_of_equation_6():
    found = ar(torch.tensor([0.0, 0.5, 1.0, 2.0, -2.0], dtype=torch.float64)).tolist()
    assert found == pytest.approx([0.0, 0.5, 1.0, math.e, math.e])


def test_even_and_never_negative():
    assert torch.equal(ar(POINTS), ar(-POINTS))
    assert (ar(POINTS) > 0).all()
    assert torch.equal(ar_slope(POINTS), -ar_slope(-POINTS))


def test_value_and_slope_are_continuous_at_one():
    near = torch.tensor([1 - 1e-9, 1 + 1e-9], dtype=torch.float64)
    assert ar(near)[1] - ar(near)[0] == pytest.approx(2e-9, rel=1e-3)
    assert (ar_slope(near)[1] - ar_slope(near)[0]).abs() < 1e-8


@pytest.mark.parametrize("name", REGULARISERS)
def test_slope_is_the_derivative(name):
    penalty, slope = REGULARISERS[name]
    inside = POINTS[POINTS.abs() != 1]
    numeric = (penalty(inside + 1e-6) - penalty(inside - 1e-6)) / 2e-6
    torch.testing.assert_close(slope(inside), numeric, rtol=1e-6, atol=1e-8)
    assert slope(torch.zeros(1)) == 0


def test_lowest_takes_the_share():
    score = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert lowest(score, 0.5).tolist() == [[0, 1], [1, 0]]
    assert lowest(score, 0.0).sum() == 0
    assert lowest(score, 1.0).sum() == 4
