import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import softmax
from torch import nn
from torch.nn import functional as F

from wiper_cli.salience.bs import benign_salience
from wiper_cli.salience.integrated_gradients import conductance, integrated_gradients
from wiper_cli.salience.settings import IntegratedGradients


def start_of(features, baseline):
    return features.mean(0).expand_as(features) if baseline == "mean" else torch.zeros_like(features)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_units_sum_to_the_fall_of_the_loss(make_head, baseline, steps, spread):
    features, logits, labels, weight = head = make_head(spread=spread)
    moved = logits + (start_of(features, baseline) - features) @ weight.T
    fall = F.cross_entropy(moved, labels) - F.cross_entropy(logits, labels)
    found = integrated_gradients(*head, IntegratedGradients(baseline, steps))
    assert abs(float(fall)) > 0.05
    assert float(found.sum()) == pytest.approx(float(fall), abs=1e-3)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_each_unit_equals_adaptive_quadrature(make_head, baseline):
    head = make_head(images=5, units=4, classes=3)
    features, logits, labels, weight = (x.numpy() for x in head)
    start = start_of(head[0], baseline).numpy()
    expected = np.zeros(4)
    for h, z, y, h0 in zip(features, logits, labels, start, strict=True):
        for j in range(4):

            def slope(a, h=h, z=z, y=y, h0=h0, j=j):
                p = softmax(z + weight @ ((a - 1) * (h - h0)))
                p[y] -= 1
                return p @ weight[:, j]

            expected[j] -= (h[j] - h0[j]) * quad(slope, 0, 1, epsabs=1e-12)[0] / len(features)
    found = integrated_gradients(*head, IntegratedGradients(baseline))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_is_salience_when_the_line_is_short(make_head):
    # Features so small that the loss is linear in them: the first-order form is exact in the limit.
    features, logits, labels, weight = make_head()
    tiny = (features * 1e-6, logits - features @ weight.T * (1 - 1e-6), labels, weight)
    found = integrated_gradients(*tiny, IntegratedGradients())
    torch.testing.assert_close(found, benign_salience(*tiny), rtol=1e-4, atol=1e-12)


@pytest.fixture
def network():
    """Features and logits of a small network with a smooth bend and a kink, and 9 images."""
    generator = torch.Generator().manual_seed(1)
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU()).double()
    head = nn.Linear(5, 3).double()
    with torch.no_grad():
        for parameter in [*body.parameters(), *head.parameters()]:
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    images = torch.rand(9, 2, 6, 6, generator=generator, dtype=torch.float64)

    def evaluate(x):
        h = body(x)
        return h, head(h)

    return evaluate, images, torch.arange(9) % 3, head.weight.detach()


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_conductance_sums_to_the_fall_of_the_loss_for_any_steps(network, baseline):
    evaluate, images, labels, weight = network
    start = start_of(images, baseline)
    fall = F.cross_entropy(evaluate(start)[1], labels) - F.cross_entropy(evaluate(images)[1], labels)
    for steps in (1, 20):
        found = conductance(evaluate, images, labels, weight, IntegratedGradients(baseline, steps))
        assert float(found.sum()) == pytest.approx(fall.item(), abs=1e-3)


def test_conductance_by_two_backward_passes(network):
    """The definition, by autograd: dL/dh_j times dh_j/da, on a fine grid of midpoints."""
    evaluate, images, labels, weight = network
    steps = 400
    expected = torch.zeros(5, dtype=torch.float64)
    for step in range(steps):
        a = torch.tensor((step + 0.5) / steps, dtype=torch.float64)
        h, change = torch.autograd.functional.jvp(lambda a: evaluate(a * images)[0], a, torch.ones_like(a))
        h.requires_grad_(True)
        logits = evaluate(a * images)[1].detach() + (h - h.detach()) @ weight.T
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels), h)
        expected -= (slope * change).sum(0).detach() / steps
    found = conductance(evaluate, images, labels, weight, IntegratedGradients(steps=200))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
