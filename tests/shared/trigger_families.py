from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import triggers
from triggers.family import Victim


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(weight, bias):
    """A classifier f(x) = W x + b on flattened images."""
    return lambda x: x.flatten(1).to(weight.dtype) @ weight.T + bias


@pytest.fixture
def classifier():
    weight = torch.randn(2, 3 * 4 * 5, generator=seeded(1), dtype=torch.float64)
    return weight, -0.5 * weight.sum(1)


@pytest.fixture
def images():
    """[5,3,20,16], every level of a stored picture possible, not square."""
    values = torch.randint(0, 256, (5, 3, 20, 16), generator=torch.Generator().manual_seed(3))
    return values.float() / 255


@pytest.fixture(scope="session")
def victim():
    """An untrained network of 4 classes on [N,3,H,W], with its training images uint8 [48,3,20,16] and labels."""
    draw = torch.Generator().manual_seed(8)
    kernel = torch.randn(6, 3, 3, 3, generator=draw) * 0.4
    head = torch.randn(4, 6, generator=draw)

    def features(x):
        h = F.relu(F.conv2d(x.float(), kernel.to(x.device), padding=1)).mean((2, 3))
        return h, h @ head.to(x.device).T

    images = torch.randint(0, 256, (48, 3, 20, 16), generator=draw, dtype=torch.uint8)
    return Victim(lambda x: features(x)[1], features, lambda: head), images, torch.arange(48) % 4


def _quick(name):
    family = triggers.find(name)
    return family(**family.quick)


@pytest.fixture(
    params=[n for n in triggers.names() if any("fitted" in f.metadata for f in fields(triggers.find(n)))]
)
def unfitted(request):
    """One of every family that is fitted, in a short form."""
    return _quick(request.param)


@pytest.fixture(params=triggers.names())
def trigger(request, tmp_path, victim):
    """One of every family with its defaults, fitted where it needs that."""
    if request.param != "known":
        return _quick(request.param).fit(*victim, 1, torch.Generator().manual_seed(0))
    Image.new("RGB", (4, 3), (250, 10, 0)).save(tmp_path / "t.png")
    return triggers.find("known")(str(tmp_path / "t.png"), position=(-4, 2))
