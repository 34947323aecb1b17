import math

import pytest
import torch
from torch import nn

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.layers import convolutions, taps
from wiper_cli.purifiers.methods.kd import KD
from wiper_cli.purifiers.methods.kd.method import distillation, start_anew
from wiper_cli.verdict import Problem


def test_the_loss_by_hand():
    teacher, student, t = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], [[0.3, 0.1, 0.2], [1.0, -1.0, 0.0]], 2.0

    def softmax(logits):
        exponents = [math.exp(z / t) for z in logits]
        return [e / sum(exponents) for e in exponents]

    expected = 0.0
    for a, b in zip(teacher, student, strict=True):
        expected += sum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
    found = distillation(torch.tensor(teacher), torch.tensor(student), t)
    assert float(found) == pytest.approx(t * t * expected / 2, rel=1e-5)


def test_a_new_start_is_new_and_has_unit_scale(classifier, clean):
    copy = classifier.copy()
    images = clean.fit.images[:256]
    assert start_anew(copy, images, torch.Generator().manual_seed(0)) == 0
    old, new = classifier.network.network, copy.network.network
    layers = convolutions(copy)
    with taps(copy, layers) as tap:
        tapped = tap(images / 255)
        for n in range(len(layers)):
            y = tapped.output(n).detach()
            torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(y.shape[1]), rtol=0, atol=1e-4)
            torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(y.shape[1]), rtol=0, atol=1e-3)
    for name in ("conv1", "conv2", "fc"):
        both = torch.stack([getattr(n, name).weight.detach().flatten() for n in (old, new)])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.4
    assert (new.fc.bias == 0).all()
    assert (copy.logits(clean.report.images).argmax(1) == clean.report.labels).float().mean() < 0.4


def test_a_network_with_other_weights_is_refused(opened, clean):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 4, stride=4), nn.Linear(4, 3)
            self.places = nn.Parameter(torch.zeros(1, 4, 4))

        def forward(self, x):
            return self.fc((self.conv(x).flatten(2) + self.places).mean(2))

    classifier = Classifier(opened(Positions()), (0.5,), (0.5,))
    with pytest.raises(Problem, match=r"places of shape \[1, 4, 4\] belongs to no convolution"):
        KD().run(Task(classifier, clean))


def test_learns_without_the_backdoor(removes):
    removes(KD(epochs=15, batch=32, flip=False, crop=0.0), 0.15, 0.8)
