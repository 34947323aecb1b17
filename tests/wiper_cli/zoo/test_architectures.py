import pytest
import torch
from safetensors.torch import save
from torch import nn

from formats import Source, open_model
from wiper_cli.verdict import Problem
from wiper_cli.zoo import architectures
from wiper_cli.zoo.architectures import find, initialise

SMALL = [
    "resnet10-w4", "resnet10-patch-w4", "resnet18-w4", "resnet34-w4", "preact-resnet18-w4", "vgg11-bn-w4",
    "vgg16-bn-w4", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
]  # fmt: skip


def drawn(name, seed=0, classes=7):
    network = find(name).build(classes, 3)
    initialise(network, torch.Generator().manual_seed(seed))
    return network.eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_scan_recognises_it_and_computes_the_same(name):
    network = drawn(name)
    opened = open_model(Source("model.safetensors", save(network.state_dict())))
    assert isinstance(network.get_submodule(find(name).head), nn.Linear)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(opened.network(x), network(x), atol=1e-5)
    assert opened.classes == 7


@pytest.mark.parametrize("name", ["resnet10-patch-w4", "shufflenet_v2_x0_5"])
def test_weights_come_from_the_generator_alone(name):
    torch.manual_seed(1)
    first = drawn(name).state_dict()
    torch.manual_seed(2)
    second = drawn(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(next(iter(first.values())), next(iter(drawn(name, 1).state_dict().values())))


@pytest.mark.parametrize("name", ["resnet10-w4", "vgg11-bn-w4", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_fresh_logits_are_of_ordinary_size(name):
    network = drawn(name).train()
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert 0.05 < network(x).std().item() < 20


def test_unknown_names():
    with pytest.raises(Problem, match="no architecture 'resnet81' in the zoo; the nearest is 'resnet18'"):
        find("resnet81")
    with pytest.raises(Problem, match="no architecture"):
        find("resnet10-w0")
    assert "resnet10-wN" in architectures.names()
