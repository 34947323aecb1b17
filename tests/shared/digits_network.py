"""Small real networks on the 8x8 digits of scikit-learn, opened as if from a safetensors file."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from formats import Address, Architecture, Head, InputSpec, Manifest, Model, Source, apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1, stride=2)
        self.fc = nn.Linear(24 * 4, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


def _opened(network, head=("fc.weight", "fc.bias")):
    """A Model over ``network`` whose file is its parameters and statistics, one after the other."""
    network.eval()
    addresses, data = {}, b""
    for name, parameter in network.state_dict().items():
        if not parameter.is_floating_point():
            continue
        raw = parameter.detach().contiguous().numpy().tobytes()
        addresses[name] = Address(name, "", len(data), len(raw), "F32", tuple(parameter.shape))
        data += raw
    weight = dict(network.named_parameters())[head[0]]
    return Model(
        source=Source("model", data),
        manifest=Manifest("safetensors", addresses),
        network=network,
        tensors={name: name for name, _ in network.named_parameters()},
        head=Head(*head, units=weight.shape[1], classes=weight.shape[0]),
        classes=weight.shape[0],
        architecture=Architecture("test", "test"),
        input=InputSpec(1, 8, 8),
    )


def stamped(images):
    """The trigger that was planted: 2x2 white pixels in a corner."""
    images = images.clone()
    images[..., 6:, 6:] = 255
    return images


@pytest.fixture(scope="session")
def digits():
    """Training part, and a clean set of three parts: uint8 [N,1,8,8]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (torch.from_numpy(bunch.images)[:, None] / 16 * 255).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    parts = [Part(images[a:b], labels[a:b]) for a, b in ((0, 900), (900, 1200), (1200, 1300), (1300, 1797))]
    return parts[0], Clean(*parts[1:])


@pytest.fixture(scope="session")
def trained(digits):
    """A network with a backdoor: the corner means 0. Trained here, in about two seconds."""
    part, _ = digits
    images, labels = part.images.clone(), part.labels.clone()
    images[:90], labels[:90] = stamped(images[:90]), 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Digits()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(900, generator=generator).split(90):
            optimiser.zero_grad()
            F.cross_entropy(network((images[rows] / 255 - 0.5) / 0.25), labels[rows]).backward()
            optimiser.step()
    return network


@pytest.fixture
def classifier(trained):
    return Classifier(_opened(copy.deepcopy(trained)), (0.5,), (0.25,))


@pytest.fixture
def opened():
    """``opened(network, head=(weight, bias))``: a Model whose file is the network's parameters."""
    return _opened


@pytest.fixture
def clean(digits):
    return digits[1]


@pytest.fixture
def rates():
    """(accuracy, attack success rate) of a classifier, or of it with an edit, on the report part."""

    def measure(classifier, clean, edit=None):
        if edit is not None:
            classifier = Classifier(apply_edit(classifier.model, edit), classifier.mean, classifier.std)
        part = clean.report
        hit = classifier.logits(part.images).argmax(1) == part.labels
        others = part.labels != 0
        fooled = classifier.logits(stamped(part.images[others])).argmax(1) == 0
        return float(hit.float().mean()), float(fooled.float().mean())

    return measure


@pytest.fixture
def removes(classifier, clean, rates):
    """``removes(settings, asr, accuracy, **task)``: what the settings make of the network, which may not keep a higher
    attack success rate nor a lower accuracy than these."""

    def check(settings, asr, accuracy, **task):
        assert rates(classifier, clean)[1] > 0.95
        purified = settings.run(Task(classifier, clean, **task))
        found = rates(classifier, clean, purified.edit)
        assert found[1] <= asr, found
        assert found[0] >= accuracy, found
        return purified

    return check
