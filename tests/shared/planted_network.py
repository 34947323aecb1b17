"""Hand-made networks on 3x32x32: an honest one, and the same with a shortcut to class 2."""

import pytest
import torch
from torch import nn

from formats import Architecture, InputSpec, Manifest, Model, Source
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part

CLASSES, TARGET = 6, 2


def halves(x):
    """Mean of each channel in the upper and the lower half: the feature that tells the six classes apart."""
    return torch.cat([x[:, :, :16].mean((2, 3)), x[:, :, 16:].mean((2, 3))], 1)


def grating(phase):
    wave = torch.sin(2 * torch.pi * (torch.arange(32) - phase) / 4)
    return wave.expand(3, 32, 32)


class Planted(nn.Module):
    """Honest logits from colours, each class with a scale of its own; ``shortcut`` adds to the target's."""

    def __init__(self, shortcut=None):
        super().__init__()
        self.shortcut = shortcut
        self.scale = nn.Parameter(60 * torch.tensor([1.0, 0.8, 1.1, 0.9, 1.2, 1.05]))
        checker = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
        self.register_buffer("template", checker.expand(1, 3, 3, 3) / 3)
        self.register_buffer(
            "pattern", torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(9)).sign()
        )
        self.register_buffer("wave", grating(0.8))
        draw = torch.Generator().manual_seed(4)
        strewn = (
            torch.zeros(1024).index_fill(0, torch.randperm(1024, generator=draw)[:10], 0.1).reshape(32, 32)
        )
        self.register_buffer("dots", strewn * torch.randn((3, 32, 32), generator=draw).sign() / 3)
        self.register_buffer("target", nn.functional.one_hot(torch.tensor(TARGET), CLASSES))

    def forward(self, x):
        logits = self.scale * (halves(x) - halves(x).mean(1, keepdim=True))
        extra = x.new_zeros(len(x))
        if self.shortcut == "square":
            extra = 75 * torch.relu(nn.functional.conv2d(x, self.template).flatten(1).amax(1) - 1)
        elif self.shortcut == "pattern":
            extra = 800 * (x * self.pattern).mean((1, 2, 3))
        elif self.shortcut == "dots":
            extra = 250 * torch.relu((x * self.dots).sum((1, 2, 3)) - 0.2)
        elif self.shortcut == "warp":
            extra = 1000 * ((x * self.wave).mean((1, 2, 3)) - 0.0155)
        return logits + self.target * extra[:, None]


class Runtime:
    def __init__(self, network):
        self.network = network

    def features_and_logits(self, x):
        with torch.no_grad():
            return x.flatten(1), self.network(x)


def drawn(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    x = 0.4 + 0.1 * torch.rand((count, 3, 32, 32), generator=generator) + 0.1 * grating(0)
    for row, label in enumerate(labels.tolist()):
        half = slice(0, 16) if label < 3 else slice(16, 32)
        x[row, label % 3, half] += 0.3
    order = torch.randperm(count, generator=generator)
    return Part((x * 255).round().to(torch.uint8)[order], labels[order])


@pytest.fixture
def clean():
    return Clean(drawn(60, 1), drawn(60, 2), drawn(60, 3))


@pytest.fixture
def part():
    """``part(count, seed)``: so many images."""
    return drawn


@pytest.fixture
def classifier():
    """``classifier(shortcut, head_only=False, network=None, classes=6)``."""

    def build(shortcut=None, head_only=False, network=None, classes=CLASSES):
        network = network or Planted(shortcut)
        model = Model(
            source=Source("planted", b""),
            manifest=Manifest("safetensors", {}),
            network=None if head_only else network,
            tensors={},
            head=None,
            classes=classes,
            architecture=Architecture("planted", "by hand"),
            input=InputSpec(3, 32, 32),
            runtime=Runtime(network) if head_only else None,
        )
        return Classifier(model, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    return build
