import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wiper_cli.purifiers.machinery.bounds import activations, bounded, first_bounds, gradients
from wiper_cli.verdict import Problem


class Plain(nn.Module):
    """The same network with its bounds written out: the independent computation."""

    def __init__(self, inplace=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.inplace = inplace

    def forward(self, x, bounds=None):
        for n, conv in enumerate((self.conv1, self.conv2)):
            y = F.relu(conv(x), inplace=self.inplace)
            if bounds is not None:
                y = torch.minimum(y, bounds[n])
            x = y if n == 0 else x + y
        return self.fc(x.mean((2, 3)))


def network(inplace=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain(inplace).eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.rand(20, 1, 6, 5, generator=torch.Generator().manual_seed(0))


def test_first_bounds_are_mean_and_four_deviations(images):
    net = network()
    first = net.conv1(images).relu()
    second = net.conv2(first).relu()
    bounds = first_bounds(net, images.split(7), 4.0)
    for bound, value in zip(bounds, (first, second), strict=True):
        torch.testing.assert_close(bound, value.mean(0) + 4 * value.std(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(activations(net, images)[1], second)


@pytest.mark.parametrize("form", ["module", "inplace", "torchscript"])
def test_clipping_and_its_gradients_are_those_of_minimum(images, form):
    net = network(form == "inplace")
    plain = network()
    bounds = [bound + 1e-3 for bound in first_bounds(net, [images], 0.5)]  # no ties with 0
    given = torch.jit.freeze(torch.jit.trace(net, images)) if form == "torchscript" else net
    free = [bound.clone().requires_grad_(True) for bound in bounds]
    x = images.clone().requires_grad_(True)
    labels = torch.arange(20) % 3
    expected = plain(x, free)
    torch.testing.assert_close(bounded(given, bounds, images), expected.detach())
    assert not torch.allclose(expected, plain(images))
    slopes = torch.autograd.grad(F.cross_entropy(expected, labels), [x, *free])
    loss, found = gradients(given, bounds, images, lambda logits: F.cross_entropy(logits, labels))
    torch.testing.assert_close(loss, F.cross_entropy(expected, labels).detach())
    for mine, theirs in zip(found, slopes[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    z = images.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(bounded(given, bounds, z), labels), z)
    torch.testing.assert_close(slope, slopes[0], rtol=1e-4, atol=1e-7)


def test_a_network_without_activations_is_refused(images):
    with pytest.raises(Problem, match="no activation"):
        activations(nn.Flatten(), images)
