import dataclasses

import pytest
import torch
from torch.nn import functional as F

from formats.model import Head
from wiper_cli.salience.bs import Momentum, benign_salience, require_linear
from wiper_cli.verdict import ExitCode, Problem


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(3)
    features = torch.rand(60, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    return features, weight, bias, torch.randint(4, (60,), generator=generator)


def test_closed_form_equals_the_derivative_by_the_features(head):
    features, weight, bias, labels = head
    features.requires_grad_(True)
    logits = features @ weight.T + bias
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), features)
    expected = -(features * slope).mean(0)
    found = benign_salience(features.detach(), logits.detach(), labels, weight)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_momentum_follows_equation_3():
    momentum = Momentum(0.9)
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert torch.equal(momentum.update(first), first)
    torch.testing.assert_close(momentum.update(second), 0.9 * first + 0.1 * second)
    assert torch.equal(Momentum(0.0).update(second), second)
    with pytest.raises(ValueError, match="eta"):
        Momentum(1.5)


def test_refuses_a_head_that_is_not_linear():
    head = Head("fc.weight", "fc.bias", units=7, classes=4)
    assert require_linear(head) is head
    with pytest.raises(Problem, match="not a linear map") as refused:
        require_linear(dataclasses.replace(head, linear=False))
    assert refused.value.exit_code == ExitCode.NO_VERDICT
    with pytest.raises(Problem, match="No linear head"):
        require_linear(None)
