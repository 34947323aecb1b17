import pytest
import torch


def make(images=60, units=7, classes=4, seed=3, spread=1.0):
    """A head with a bias and non-negative features, float64: features, logits, labels, weight."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, units, generator=generator, dtype=torch.float64).relu()
    weight = spread * torch.randn(classes, units, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    return features, features @ weight.T + bias, labels, weight


@pytest.fixture
def make_head():
    return make
