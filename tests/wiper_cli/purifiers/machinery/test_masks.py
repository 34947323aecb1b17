"""Masks on channels: what they do to a network with a live and a folded norm, and how a threshold is chosen."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.machinery.masks import MaskStudent, accuracy, clamp, prune
from wiper_cli.purifiers.machinery.training import switch
from wiper_cli.verdict import Problem


def edited(classifier, edit):
    return Classifier(apply_edit(classifier.model, edit), classifier.mean, classifier.std)


def by_hand(network, images, masks, means=None, noise=None):
    """conftest's network, its two pre-activations masked: m (y - mu) + mu, or m y."""
    x = (images / 255 - 0.5) / 0.25
    first, second = masks
    y = network.norm(network.conv1(x))
    shape = (1, -1, 1, 1)
    mu = 0 if means is None else means[0].reshape(shape)
    y = first.reshape(shape) * (y - mu) + mu
    z = network.conv2(F.relu(y))
    mu = 0 if means is None else means[1].reshape(shape)
    z = second.reshape(shape) * (z - mu) + mu
    return network.fc(F.max_pool2d(F.relu(z), 2).flatten(1))


@pytest.fixture
def network(trained):
    return copy.deepcopy(trained).eval()


@pytest.fixture
def soft():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(12, generator=generator), torch.rand(24, generator=generator)]


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_masks_act_on_pre_activations(classifier, network, clean, soft, ablation):
    student = MaskStudent(classifier, clean.fit, ablation)
    images = clean.report.images[:20].float()
    with torch.no_grad():
        x = (clean.fit.images[:512].float() / 255 - 0.5) / 0.25
        first = network.norm(network.conv1(x))
        means = [first.mean((0, 2, 3)), network.conv2(F.relu(first)).mean((0, 2, 3))]
        means = means if ablation == "mean" else None
        expected = by_hand(network, images, soft, means)
        torch.testing.assert_close(student.masked(soft, images / 255), expected, rtol=1e-4, atol=1e-4)
    baked = edited(classifier, student.pruned(soft))
    torch.testing.assert_close(baked.logits(images / 255), expected, rtol=1e-4, atol=1e-4)


def test_noise_on_a_live_norm_is_the_originals(classifier, network, clean, soft):
    """weight (m + d) and bias (1 + e) of the norm, where the mean of a channel is the norm's bias."""
    student = MaskStudent(classifier, clean.fit, "mean")
    student.means[0] = network.norm.bias.detach().clone()
    noise = ([0.3 * torch.ones(12), torch.zeros(24)], [-0.2 * torch.ones(12), torch.zeros(24)])
    values = student.values(soft, noise)
    torch.testing.assert_close(values["norm.weight"], network.norm.weight * (soft[0] + 0.3))
    torch.testing.assert_close(values["norm.bias"], network.norm.bias * 0.8)


def test_live_masks_scale_the_norm_and_keep_its_shift(opened, network, clean, soft):
    """In training mode, of a network whose statistics lag behind its weights."""
    with torch.no_grad():
        network.conv1.weight.mul_(1.7)
        network.norm.running_mean.add_(0.3)
    classifier = Classifier(opened(network), (0.5,), (0.25,))
    student = MaskStudent(classifier, clean.fit, "mean", live=True)
    masks = [soft[0], torch.ones(24)]
    noise = ([0.3 * torch.ones(12), torch.zeros(24)], [-0.2 * torch.ones(12), torch.zeros(24)])
    x = clean.fit.images[:100].float() / 255
    switch(student.norms, True)
    masked, noisy = student.masked(masks, x).detach(), student.masked(masks, x, noise).detach()
    found = network.norm.running_mean.clone()
    for logits, factor, shift in ((masked, soft[0], 1.0), (noisy, soft[0] + 0.3, 0.8)):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.norm.train().weight.mul_(factor)
            other.norm.bias.mul_(shift)
            torch.testing.assert_close(logits, other((x - 0.5) / 0.25), rtol=1e-4, atol=1e-4)
    assert torch.equal(network.norm.running_mean, found)


def test_live_needs_statistics(opened, clean):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
    classifier = Classifier(opened(network, ("3.weight", "3.bias")), (0.5,), (0.25,))
    with pytest.raises(Problem, match="stored with its statistics"):
        MaskStudent(classifier, clean.fit, "mean", live=True)


def test_without_a_bias_a_removed_channel_is_zero(opened, clean):
    network = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
    student = MaskStudent(
        Classifier(opened(network, ("3.weight", "3.bias")), (0.5,), (0.25,)), clean.fit, "mean"
    )
    values = student.values([torch.tensor([1.0, 0.5, 0.0])])
    assert set(values) == {"0.weight"}
    torch.testing.assert_close(values["0.weight"][1], network[0].weight[1] / 2)


def test_the_threshold_is_the_largest_within_the_budget(classifier, clean):
    student = MaskStudent(classifier, clean.fit, "zero")
    found = [torch.linspace(0, 1, 12), torch.linspace(0.02, 0.98, 24)]
    cuts = torch.cat(found)[torch.cat(found) < 1].unique().tolist()
    whole = accuracy(student, [torch.ones(12), torch.ones(24)], clean.select)
    for budget in (0.0, 0.05, 0.3):
        best = None
        for cut in cuts:
            if accuracy(student, [(m > cut).float() for m in found], clean.select) < whole * (1 - budget):
                break
            best = cut
        masks, note = prune(student, found, clean.select, budget)
        expected = [torch.ones(12), torch.ones(24)] if best is None else [(m > best).float() for m in found]
        for mask, other in zip(masks, expected, strict=True):
            assert torch.equal(mask, other)
        assert ("nothing was changed" in note) == (best is None)


def test_masks_stay_between_0_and_1():
    masks = [torch.tensor([-1.0, 0.5, 2.0])]
    clamp(masks)
    assert masks[0].tolist() == [0, 0.5, 1]
