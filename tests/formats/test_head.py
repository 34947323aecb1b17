"""The head on the autograd graph: layouts, heads with more behind them, features and their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formats import HeadTap, open_model, read_source
from formats.head import find_head, reaching
from formats.safetensors.torchvision_stub import import_torchvision

D, K = 6, 4


class Net(nn.Module):
    """A small convolution, and a head given as a function of (features, weight, bias)."""

    def __init__(self, head, weight, bias=True):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Conv2d(3, D, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(weight, generator=generator))
        self.bias = nn.Parameter(torch.randn(K, generator=generator)) if bias else None
        self.head = head

    def maps(self, x):
        return F.relu(self.body(x))

    def forward(self, x):
        return self.head(self.maps(x), self.weight, self.bias)


def mean(maps):
    return maps.mean((2, 3))


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)


HEADS = {
    "linear": ("out_in", Net(lambda m, w, b: F.linear(mean(m), w, b), (K, D))),
    "linear without bias": ("out_in", Net(lambda m, w, b: F.linear(mean(m), w), (K, D), bias=False)),
    "matmul": ("in_out", Net(lambda m, w, b: mean(m) @ w, (D, K), bias=False)),
    "matmul and add": ("in_out", Net(lambda m, w, b: mean(m) @ w + b, (D, K))),
    "gemm": ("in_out", Net(lambda m, w, b: torch.addmm(b, mean(m), w), (D, K))),
    "unsqueezed": ("in_out", Net(lambda m, w, b: (mean(m)[:, None] @ w + b)[:, 0], (D, K))),
    "times one": ("out_in", Net(lambda m, w, b: F.linear(mean(m), w, b) * 1.0, (K, D))),
    "square": ("in_out", Net(lambda m, w, b: mean(m) @ w, (D, D), bias=False)),
    "conv": ("conv", Net(lambda m, w, b: mean(F.conv2d(m, w, b)), (K, D, 1, 1))),
    "conv after pooling": ("conv", Net(lambda m, w, b: F.conv2d(m.mean((2, 3), True), w, b)[:, :, 0, 0], (K, D, 1, 1))),
    "conv over everything": ("conv", Net(lambda m, w, b: F.conv2d(m, w, b).flatten(1), (K, D, 8, 8))),
    "tokens": ("out_in", Net(lambda m, w, b: F.linear(tokens(m), w, b).mean(1), (K, D))),
    "log-softmax": ("out_in", Net(lambda m, w, b: F.log_softmax(F.linear(mean(m), w, b), 1), (K, D))),
}  # fmt: skip


def example(n=3):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def names(network):
    return {f"file.{name}": name for name, _ in network.named_parameters()}


def centred(x):
    return x - x.mean(1, keepdim=True)


@pytest.mark.parametrize("name", HEADS)
def test_finds_it_and_its_features(name):
    layout, network = HEADS[name]
    head = find_head(network, names(network), example())
    classes = D if name == "square" else K
    assert (head.weight, head.layout, head.linear, head.scale) == ("file.weight", layout, True, 1.0)
    assert head.bias == ("file.bias" if network.bias is not None else None)
    assert (head.classes, head.units) == (classes, network.weight.numel() // classes)
    features, logits = HeadTap(network, network.weight, head)(example())
    weight = network.weight.T if layout == "in_out" else network.weight.flatten(1)
    product = features @ weight.T + (network.bias if network.bias is not None else 0)
    torch.testing.assert_close(centred(product), centred(logits), rtol=1e-4, atol=1e-5)


def test_features_lead_gradients_into_the_body():
    _, network = HEADS["linear"]
    network = Net(network.head, (K, D))
    head = find_head(network, names(network), example())
    features, logits = HeadTap(network, network.weight, head)(example())
    (gradient,) = torch.autograd.grad(logits.sum(), features, retain_graph=True)
    torch.testing.assert_close(gradient, network.weight.sum(0).expand(3, D))
    (body,) = torch.autograd.grad(features.square().sum(), network.body.weight)
    (expected,) = torch.autograd.grad(mean(network.maps(example())).square().sum(), network.body.weight)
    torch.testing.assert_close(body, expected)


@pytest.mark.parametrize("name", ["linear", "matmul and add", "conv", "unsqueezed"])
def test_a_network_of_a_fixed_batch_size_has_one_head(name):
    class Fixed(Net):
        """Runs two images at a time; the last pair is padded."""

        def forward(self, x):
            padded = torch.cat([x, x[:1]]) if len(x) % 2 else x
            return torch.cat([super(Fixed, self).forward(pair) for pair in padded.split(2)])[: len(x)]

    _, free = HEADS[name]
    network = Fixed(free.head, free.weight.shape)
    network.load_state_dict(free.state_dict(), strict=False)
    head = find_head(network, names(network), example(5))
    assert (head.weight, head.linear, head.frontier) == ("file.weight", True, ())
    expected, _ = HeadTap(free, free.weight, head)(example(5))
    features, _ = HeadTap(network, network.weight, head)(example(5))
    torch.testing.assert_close(features, expected)


def test_works_with_a_frozen_body_under_no_grad_and_under_autocast():
    network = Net(HEADS["linear"][1].head, (K, D)).requires_grad_(False)
    head = find_head(network, names(network), example())
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="require a gradient"):
        HeadTap(network, network.weight, head)(example())
    network.weight.requires_grad_(True)
    with torch.no_grad():
        features, _ = HeadTap(network, network.weight, head)(example())
    torch.testing.assert_close(features, mean(network.maps(example())))
    with torch.autocast("cpu", torch.bfloat16):
        rough, logits = HeadTap(network, network.weight, head)(example())
    assert rough.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(rough, features, rtol=0.02, atol=0.02)


def test_measures_what_follows_the_head():
    relu = Net(lambda m, w, b: F.relu(F.conv2d(m, w, b)).mean((2, 3)), (K, D, 1, 1))
    assert not find_head(relu, names(relu), example()).linear
    scaled = Net(lambda m, w, b: 0.125 * F.linear(mean(m), w, b), (K, D))
    head = find_head(scaled, names(scaled), example())
    assert head.linear
    assert head.scale == pytest.approx(0.125)


def test_two_heads_are_reported():
    class Two(Net):
        def __init__(self):
            super().__init__(None, (K, D))
            self.other = nn.Linear(D, K)

        def forward(self, x):
            h = mean(self.maps(x))
            return (F.linear(h, self.weight, self.bias) + self.other(h)) / 2

    network = Two()
    head = find_head(network, names(network), example())
    assert set(head.frontier) == {"file.weight", "file.other.weight"}
    assert not head.linear


def test_without_a_stored_weight_or_with_a_kernel_that_slides_over_the_image_there_is_no_head():
    network = nn.Sequential(nn.Conv2d(3, K, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_head(network, {"b": "0.bias"}, example()) is None
    network = nn.Sequential(nn.Conv2d(3, K, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
    assert find_head(network, {"w": "0.weight", "b": "0.bias"}, example()) is None


def test_an_image_that_requires_a_gradient_is_no_weight():
    network = HEADS["linear"][1]
    x = example().requires_grad_(True)
    head = find_head(network, names(network), x)
    assert head.weight == "file.weight"
    assert id(x) in reaching(network(x))


@pytest.mark.parametrize(
    ("name", "size", "weight", "linear"),
    [
        ("resnet18", 32, "fc.weight", True),
        ("squeezenet1_1", 32, "classifier.1.weight", False),
        ("densenet121", 32, "classifier.weight", True),
        ("swin_t", 32, "head.weight", True),
        ("convnext_tiny", 32, "classifier.2.weight", True),
    ],
)
def test_torchvision(name, size, weight, linear):
    network = import_torchvision().models.get_model(name, weights=None, num_classes=K).eval()
    parameters = {key: key for key, _ in network.named_parameters()}
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    head = find_head(network, parameters, x)
    assert (head.weight, head.linear, head.frontier) == (weight, linear, ())


def test_a_convolution_as_head_inside_a_torchscript_graph(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, K, 1), nn.Flatten()
    ).eval()
    torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 8, 8)), tmp_path / "model.pt")
    head = open_model(read_source(tmp_path / "model.pt")).head
    assert (head.weight, head.layout, head.units, head.linear) == ("3.weight", "conv", 4, True)
