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
    labels = torch.randint(4, (60,), generator=generator)
    return features, weight, bias, labels


def loss_of(features, weight, bias, labels):
    return F.cross_entropy(features @ weight.T + bias, labels)


def test_closed_form_equals_the_derivative_by_the_features(head):
    features, weight, bias, labels = head
    features.requires_grad_(True)
    logits = features @ weight.T + bias
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), features)
    expected = -(features * slope).mean(0)
    found = benign_salience(features.detach(), logits.detach(), labels, weight)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_closed_form_equals_the_derivative_by_the_weights(head):
    features, weight, bias, labels = head
    weight.requires_grad_(True)
    (slope,) = torch.autograd.grad(loss_of(features, weight, bias, labels), weight)
    expected = -(weight * slope).sum(0)
    found = benign_salience(features, features @ weight.detach().T + bias, labels, weight.detach())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_is_the_first_order_rise_of_the_loss_when_a_unit_shrinks(head):
    features, weight, bias, labels = head
    found = benign_salience(features, features @ weight.T + bias, labels, weight)
    base = loss_of(features, weight, bias, labels)
    errors = []
    for step in (1e-3, 1e-4):
        rise = torch.empty(7, dtype=torch.float64)
        for j in range(7):
            shrunk = weight.clone()
            shrunk[:, j] *= 1 - step
            rise[j] = (loss_of(features, shrunk, bias, labels) - base) / step
        errors.append((rise - found).abs().max())
    assert errors[0] < 1e-2
    # First order: ten times smaller steps, ten times smaller error.
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_an_unused_unit_has_none(head):
    features, weight, bias, labels = head
    weight[:, 2] = 0
    features[:, 5] = 0
    found = benign_salience(features, features @ weight.T + bias, labels, weight)
    assert (found[2], found[5]) == (0, 0)
    assert (found[[0, 1, 3, 4, 6]] != 0).all()


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
