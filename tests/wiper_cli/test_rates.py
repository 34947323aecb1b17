import math

import pytest

from wiper_cli.rates import corrected, effectiveness, rate, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(90, 9000, 0.81, 1.23), (0, 900, 0.0, 0.43), (0, 100, 0.0, 3.7)]
)
def test_published_intervals_in_percent(hits, n, low, high):
    found = [100 * end for end in wilson(hits, n)]
    assert found == pytest.approx([low, high], abs=0.006 if n > 100 else 0.05)


@pytest.mark.parametrize(("hits", "n"), [(1, 7), (50, 100), (99, 100), (7, 7), (0, 3)])
def test_ends_solve_the_score_equation(hits, n):
    # Wilson's ends are where |p - q| = z sqrt(q (1 - q) / n).
    for end in wilson(hits, n):
        assert abs(hits / n - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / n), abs=1e-9)


def test_nothing_counted():
    assert wilson(0, 0) == (0.0, 1.0)
    assert rate(0, 0) == {"value": None, "n": 0, "interval": [0.0, 1.0]}
    assert rate(3, 4)["value"] == 0.75


def test_corrected():
    assert corrected(0.6, 0.2) == pytest.approx(0.5)
    assert corrected(0.1, 0.2) == 0
    assert corrected(1.0, 1.0) == 0


def test_effectiveness():
    assert effectiveness(1.0, 0.0, 0.9, 0.9) == 1.0
    assert effectiveness(0.5, 0.5, 0.9, 0.9) == 0.5
    assert effectiveness(0.5, 0.7, 0.8, 0.9) == 0.5
    assert effectiveness(0.9, 0.1, 0.9, 0.8) == pytest.approx(0.85)
