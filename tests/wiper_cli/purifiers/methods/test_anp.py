"""ANP on a network whose gradients can be written down: a 1x1 convolution, a sum over space, a linear head."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.masks import MaskStudent, clamp, prune
from wiper_cli.purifiers.machinery.training import Batches, switch
from wiper_cli.purifiers.methods.anp import ANP
from wiper_cli.purifiers.methods.anp.method import adversary


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture
def linear(opened):
    network = Linear()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Classifier(opened(network), (0.0,), (1.0,))


def gradients(linear, masks, noise, x, y):
    """dL/dd and dL/de of mean cross-entropy, by the chain rule."""
    w = {name: value.detach() for name, value in linear.model.named().items()}
    scale = w["conv.weight"].reshape(4) * x.mean((2, 3))  # [N,4]: conv without bias
    a = scale * (masks + noise[0]) + w["conv.bias"] * (masks + noise[1])
    logits = a @ w["fc.weight"].T + w["fc.bias"]
    back = (logits.softmax(1) - F.one_hot(y, 10)) @ w["fc.weight"] / len(y)  # dL/da [N,4]
    return (back * scale).sum(0), (back * w["conv.bias"]).sum(0)


def test_the_inner_step_follows_the_sign(linear, clean):
    student = MaskStudent(linear, clean.fit, "zero")
    with torch.no_grad():
        student.masks[0].copy_(torch.tensor([1.0, 0.5, 0.2, 0.9]))
    x, y = clean.fit.images[:50].float() / 255, clean.fit.labels[:50]
    generator = torch.Generator().manual_seed(7)
    start = [0.4 * (2 * torch.rand(4, generator=generator) - 1) for _ in range(2)]
    d, e = gradients(linear, student.masks[0].detach(), start, x, y)
    found = adversary(student, x, y, 0.4, 1, torch.Generator().manual_seed(7))
    torch.testing.assert_close(found[0][0], (start[0] + 0.4 * d.sign()).clamp(-0.4, 0.4))
    torch.testing.assert_close(found[1][0], (start[1] + 0.4 * e.sign()).clamp(-0.4, 0.4))


def search(classifier, clean, settings, live):
    """The masks of a search, step by step, from the parts that other tests check; seed 0."""
    student = MaskStudent(classifier, clean.fit, settings.ablation, live)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(clean.fit.images, clean.fit.labels, settings.batch, student.device, generator)
    for _ in range(settings.steps // len(batches)):
        for x, y in batches:
            switch(student.norms, True)
            noise = adversary(student, x, y, settings.noise, settings.inner_steps, generator)
            loss = 0.2 * F.cross_entropy(student.logits(x), y)
            loss = loss + 0.8 * F.cross_entropy(student.masked(student.masks, x, noise), y)
            with torch.no_grad():
                for mask, slope in zip(student.masks, torch.autograd.grad(loss, student.masks), strict=True):
                    mask -= settings.lr * slope
            clamp(student.masks)
    return student.masks


def test_live_searches_on_the_batches_and_prunes_the_network_as_it_was_found(classifier, clean):
    """The frozen search, and one with norms in training mode, end at other masks; either prunes one network."""
    settings = ANP(steps=9, lr=0.5, batch=100, flip=False, crop=0, momentum=0.0, noise=0.4, budget=0.5)
    statistics = classifier.model.network.norm.running_mean.clone()
    whole = MaskStudent(classifier, clean.fit, "mean")
    edits = []
    for live in (True, False):
        found = search(classifier, clean, settings, live)
        expected = whole.pruned(prune(whole, found, clean.select, settings.budget)[0])
        assert expected.tensors
        edits.append(settings.run(Task(classifier, clean, live=live)).edit)
        assert edits[-1] == expected
        assert not {"norm.running_mean", "norm.running_var"} & set(expected.tensors)
    assert edits[0] != edits[1]
    assert torch.equal(classifier.model.network.norm.running_mean, statistics)


def test_removes_the_backdoor(removes):
    removes(ANP(lr=0.5, noise=0.2, budget=0.2, flip=False, crop=0.0), 0.4, 0.85)
