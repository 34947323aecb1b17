import math

import pytest
import torch

from wiper_cli.rates import AttackRates, Rate, corrected, count, effectiveness, wilson


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
    assert (wilson(0, 0), Rate().as_dict()) == ((0.0, 1.0), {"value": None, "n": 0, "interval": [0.0, 1.0]})
    assert (Rate().share, Rate(3, 4).share, Rate(3, 4).value) == (0.0, 0.75, 0.75)


def test_the_one_count_by_hand():
    answers, untriggered = torch.tensor([0, 0, 0, 2, 1]), torch.tensor([0, 1, 0, 2, 1])
    labels = torch.tensor([0, 1, 1, 2, 2])
    assert count(untriggered, labels) == Rate(3, 5)
    found = AttackRates.of(answers, untriggered, labels, 0, labels != 0)
    assert found == AttackRates(asr=Rate(2, 4), ra=Rate(1, 4), base_rate=Rate(1, 4))
    # A goal for every image, as when each class is sent to the next one.
    assert count(answers, (labels - 1) % 3, labels >= 0) == Rate(3, 5)
    assert ((found + found).as_dict()["asr"], AttackRates() + found) == (Rate(4, 8).as_dict(), found)


def test_none_and_all_are_exact_ends():
    assert all(wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1 for n in range(1, 100))


def test_corrected():
    assert (corrected(0.6, 0.2), corrected(0.1, 0.2), corrected(1.0, 1.0)) == (pytest.approx(0.5), 0, 0)


def test_effectiveness():
    assert (effectiveness(1.0, 0.0, 0.9, 0.9), effectiveness(0.5, 0.5, 0.9, 0.9)) == (1.0, 0.5)
    assert effectiveness(0.5, 0.7, 0.8, 0.9) == 0.5
    assert effectiveness(0.9, 0.1, 0.9, 0.8) == pytest.approx(0.85)
