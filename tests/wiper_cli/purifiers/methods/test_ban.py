import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.layers import require_convolutions
from wiper_cli.purifiers.methods.ban import BAN
from wiper_cli.purifiers.methods.ban import method as ban


class Linear(nn.Module):
    """One convolution of one pixel, then sums of its channels: linear in weight and bias of every channel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.3, 0.2, -0.4]))
            self.fc.weight.copy_(torch.tensor([[1.0, 0.5, -1.0], [-1.0, 1.0, 2.0]]))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_noise_on_a_linear_problem_is_the_worst_corner(opened):
    """With linear logits of 2 classes the loss is monotone in every noise, so that one full sign step from anywhere,
    twice the size, reaches the worst of all corners."""
    classifier = Classifier(opened(Linear()), (0.0,), (1.0,))
    layers = require_convolutions(classifier, torch.zeros(1, 1, 4, 4))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.full((5, 1, 4, 4), 0.8), torch.zeros(5, dtype=torch.long)
    noise = ban.adverse(classifier, layers, x, y, 0.3, 1, generator)
    for _ in range(2):  # a start at random may need more than one step to cross over
        noise = tuple(
            [ban.stepped(v, g, 0.3, 1) for v, g in zip(side, gradients, strict=True)]
            for side, gradients in zip(noise, _gradients(classifier, layers, noise, x, y), strict=True)
        )
    reached = F.cross_entropy(ban.under(classifier, layers, noise, x), y)
    corners = itertools.product((-0.3, 0.3), repeat=6)
    losses = []
    for corner in corners:
        by = torch.tensor(corner)
        losses.append(float(F.cross_entropy(ban.under(classifier, layers, ([by[:3]], [by[3:]]), x), y)))
    assert float(reached) == pytest.approx(max(losses), abs=1e-6)
    assert max(losses) > float(F.cross_entropy(classifier.logits(x), y))


def _gradients(classifier, layers, noise, x, y):
    values = [value.requires_grad_(True) for side in noise for value in side]
    loss = F.cross_entropy(ban.under(classifier, layers, (values[:1], values[1:]), x), y)
    found = torch.autograd.grad(loss, values)
    return found[:1], found[1:]


def test_noise_multiplies_weight_and_bias_of_a_channel(opened):
    classifier = Classifier(opened(Linear()), (0.0,), (1.0,))
    layers = require_convolutions(classifier, torch.zeros(1, 1, 4, 4))
    d, e = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([-0.3, 0.0, 0.2])
    network = copy.deepcopy(classifier.network)
    with torch.no_grad():
        network.network.conv.weight *= (1 + d).reshape(3, 1, 1, 1)
        network.network.conv.bias *= 1 + e
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ban.under(classifier, layers, ([d], [e]), x), network(x))
    torch.testing.assert_close(ban.noisy_copy(classifier, layers, ([d], [e])).logits(x), network(x))


def test_steps_stay_within_the_size():
    value = torch.tensor([0.25, -0.1, 0.0])
    moved = ban.stepped(value, torch.tensor([1.0, -3.0, 0.0]), 0.3, 2)
    torch.testing.assert_close(moved, torch.tensor([0.3, -0.25, 0.0]))


def test_hardens_against_noise_and_weakens_the_backdoor(removes):
    purified = removes(BAN(flip=False, crop=0.0), 0.7, 0.93)
    losses = [epoch.loss["noisy"] for epoch in purified.history]
    assert losses[-1] < losses[0]
    assert "was borne" in purified.notes[0]
    assert "called class" in purified.notes[1]


def test_noise_stands_on_the_statistics_of_the_batch_which_are_not_learned(classifier, clean, monkeypatch):
    """Fails where noise is put on frozen batch norm, or where its passes change what the file has."""
    modes, under = set(), ban.under

    def seen(copy, layers, noise, inputs):
        modes.add(copy.network.network.norm.training)
        return under(copy, layers, noise, inputs)

    monkeypatch.setattr(ban, "under", seen)
    settings = BAN(epochs=1, flip=False, noise=0.3, mask_epochs=1)
    frozen = settings.run(Task(classifier, clean, seed=0))
    assert modes == {True, False}  # False: what the network as found bears
    assert not [name for name in frozen.edit.tensors if "running" in name]
    assert "trained under 0.3" in frozen.notes[0]
    live = settings.run(Task(classifier, clean, seed=0, live=True))
    assert [name for name in live.edit.tensors if "running" in name]


def test_noise_on_the_batch_leaves_norms_as_they_were():
    norm = nn.BatchNorm2d(2).eval()
    x = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    with ban.on_batch([norm], learn=False):
        assert norm.training
        torch.testing.assert_close(norm(x).mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    assert not norm.training
    assert norm.momentum == 0.1
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert torch.equal(norm.running_var, torch.ones(2))
