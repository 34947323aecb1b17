import pytest
import torch

from wiper_cli.salience.oracle import activation_change, precision, target_contribution


def test_change_counts_both_directions():
    clean = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    triggered = torch.tensor([[2.0, 0.0], [0.0, 2.5]])
    found = activation_change(clean, triggered)
    assert (found.dtype, found.tolist()) == (torch.float64, [1.0, 0.25])
    with pytest.raises(ValueError, match="same images"):
        activation_change(clean, triggered[:1])


def test_contributions_sum_to_the_rise_of_the_targets_logit():
    generator = torch.Generator().manual_seed(0)
    clean, triggered = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rise = ((triggered - clean) @ weight.T)[:, 2].mean()
    found = target_contribution(clean, triggered, weight, target=2)
    assert float(found.sum()) == pytest.approx(float(rise))


def test_precision_of_known_sets():
    change = torch.tensor([9.0, 8.0, 1.0, 0.0])
    assert precision(torch.tensor([0.0, 1.0, 2.0, 3.0]), change, 2) == 1.0
    assert precision(torch.tensor([3.0, 2.0, 1.0, 0.0]), change, 2) == 0.0
    assert precision(torch.tensor([0.0, 3.0, 1.0, 2.0]), change, 2) == 0.5
    assert precision(torch.tensor([0.0, 1.0, 2.0, 3.0]), change, 4, top=1) == 0.25
    with pytest.raises(ValueError, match="4 units"):
        precision(change, change, 5)


def test_an_order_by_chance_is_right_by_chance():
    generator = torch.Generator().manual_seed(0)
    change = torch.rand(100, generator=generator)
    found = [precision(torch.rand(100, generator=generator), change, 50) for _ in range(200)]
    assert sum(found) / 200 == pytest.approx(0.5, abs=0.02)
