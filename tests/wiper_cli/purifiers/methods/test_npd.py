import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.layers import Layer, convolutions
from wiper_cli.purifiers.methods.npd import NPD
from wiper_cli.purifiers.methods.npd.method import Polarizer, adversary, avoid, layer_at, merged, second
from wiper_cli.verdict import Problem


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, 2)])
def test_the_merged_kernel_is_a_1x1_convolution_in_front(stride, padding):
    kernel, matrix, x, bias = normal(5, 3, 3, 3), normal(3, 3, seed=1), normal(2, 3, 9, 9, seed=2), normal(5)
    inserted = F.conv2d(F.conv2d(x, matrix[:, :, None, None]), kernel, bias, stride, padding)
    torch.testing.assert_close(F.conv2d(x, merged(kernel, matrix), bias, stride, padding), inserted)


def test_the_file_does_what_the_polarized_network_does(classifier, clean, trained):
    """The map stands between the first activation and the second convolution."""
    polarizer = Polarizer(classifier, convolutions(classifier)[1])
    with torch.no_grad():
        polarizer.matrix.add_(0.1 * normal(12, 12))
    x = (clean.report.images[:20].float() / 255 - 0.5) / 0.25
    network = classifier.copy().network.network
    with torch.no_grad():
        h = F.relu(network.norm(network.conv1(x)))
        h = torch.einsum("mi,nihw->nmhw", polarizer.matrix, h)
        expected = network.fc(F.max_pool2d(F.relu(network.conv2(h)), 2).flatten(1))
        found = polarizer.logits(clean.report.images[:20].float() / 255)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    edit = polarizer.edit()
    assert set(edit.tensors) == {"conv2.weight"}
    purified = Classifier(apply_edit(classifier.model, edit), classifier.mean, classifier.std)
    torch.testing.assert_close(purified.logits(clean.report.images[:20]), expected, rtol=1e-4, atol=1e-4)


def test_classes_and_loss_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    assert second(logits, torch.tensor([0, 0])).tolist() == [1, 2]
    p = logits[0].softmax(0)[1], logits[1].softmax(0)[2]
    expected = -(math.log(1.0001 - float(p[0])) + math.log(1.0001 - float(p[1]))) / 2
    torch.testing.assert_close(avoid(logits, torch.tensor([1, 2])), torch.tensor(expected))


def test_the_adversary_goes_one_sign_step_into_the_ball(classifier, clean):
    polarizer = Polarizer(classifier, convolutions(classifier)[1])
    x = clean.fit.images[:30].float() / 255
    target = (clean.fit.labels[:30] + 1) % 10
    d = torch.zeros_like(x, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(classifier.copy().network(x + d), target), d)
    step = -0.1 * slope.sign()
    step = step * (0.5 / step.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
    expected = (x + step).clamp(0, 1)
    found = adversary(polarizer, x, target, 0.5, 1)
    certain = slope.abs() > 1e-7
    torch.testing.assert_close(found[certain], expected[certain])
    assert (found - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
    assert 0 <= found.min() <= found.max() <= 1


def test_what_it_lacks():
    grouped = Layer("a", None, None, 4, groups=2, depthwise=False)
    plain = Layer("b", None, None, 4, groups=1, depthwise=False)
    assert layer_at([plain, grouped, plain], 1) is plain
    for place, words in ((2, "groups"), (4, "is none")):
        with pytest.raises(Problem, match=words):
            layer_at([plain, grouped, plain], place)


def test_a_network_without_convolutions(opened, clean):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(Problem, match="is none"):
        NPD().run(Task(Classifier(opened(network, ("1.weight", "1.bias")), (0.5,), (0.25,)), clean))


def test_takes_much_of_a_backdoor_at_its_own_rate(removes):
    """A tenth of that rate, ten times the decay and no batch norm in the layer leave 0.81 of 0.98 here."""
    removes(NPD(batch=50, place=1), 0.7, 0.93)
