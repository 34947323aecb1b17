"""The bundled digits in three formats: batch norm is live in two of the files and folded in the third."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from formats import apply_edit, edit_of, open_model, read_source
from wiper_cli.classifier import Classifier
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.purifiers.machinery.layers import (
    bake,
    convolutions,
    ones,
    require_convolutions,
    scaled,
    substituted,
    taps,
)
from wiper_cli.verdict import Problem

FILES = {"safetensors": True, "torchscript.pt": True, "onnx": False}
CHANNELS = [6, 12, 24, 24, 48, 48, 48, 48]


@pytest.fixture(scope="module")
def classifiers():
    folder = example_folder()
    return {
        suffix: Classifier(open_model(read_source(folder / f"model.{suffix}")), (0.0,), (1.0,))
        for suffix in FILES
    }


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def random_factors(layers):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(layer.channels, generator=generator).requires_grad_(True) for layer in layers]


@pytest.mark.parametrize("suffix", FILES)
def test_layers_in_forward_order(classifiers, suffix):
    classifier = classifiers[suffix]
    layers = convolutions(classifier)
    assert [layer.channels for layer in layers] == CHANNELS
    assert [layer.norm is not None for layer in layers] == [FILES[suffix]] * 8
    assert not any(layer.depthwise for layer in layers)
    named = classifier.model.named()
    for layer in layers:
        assert layer.maskable
        assert named[layer.weight].shape[0] == layer.channels
        for name in layer.scaled:
            assert named[name].numel() in (layer.channels, named[layer.weight].numel())
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())


def test_names_are_those_of_the_modules(classifiers):
    classifier = classifiers["safetensors"]
    inner = classifier.model.tensors
    modules = [n for n, m in classifier.model.network.named_modules() if isinstance(m, nn.Conv2d)]
    assert [inner[layer.weight].removesuffix(".weight") for layer in convolutions(classifier)] == modules


def test_taps_equal_hooks(classifiers, images):
    classifier = classifiers["safetensors"]
    seen = []
    hooks = [
        module.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
        for module in classifier.model.network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    layers = convolutions(classifier)
    seen.clear()
    with taps(classifier, layers) as tap:
        tapped = tap(images)
    for hook in hooks:
        hook.remove()
    for index in range(8):
        torch.testing.assert_close(tapped.inputs[index], seen[2 * index][0])
        torch.testing.assert_close(tapped.output(index), seen[2 * index + 1][1])
    assert tapped.features.shape == (3, 48)
    assert torch.equal(tapped.logits, classifier.logits(images))
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())


def test_taps_are_the_same_in_all_formats(classifiers, images):
    found = []
    for classifier in classifiers.values():
        layers = convolutions(classifier)
        with taps(classifier, layers) as tap:
            tapped = tap(images)
            found.append([*tapped.inputs, *(tapped.output(i) for i in range(8)), tapped.features])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", FILES)
def test_gradients_flow_through_taps(classifiers, images, suffix):
    classifier = classifiers[suffix]
    layers = convolutions(classifier)
    x = images.clone().requires_grad_(True)
    with taps(classifier, layers) as tap:
        tapped = tap(x)
        through = torch.autograd.grad(tapped.inputs[5].square().sum(), x, retain_graph=True)[0]
        own = torch.autograd.grad(tapped.logits.sum(), tapped.inputs[5])[0]
    assert through.abs().max() > 0
    assert own.shape == tapped.inputs[5].shape
    assert own.abs().max() > 0


def test_masks_mean_the_same_in_all_formats(classifiers, images):
    outcomes = []
    for classifier in classifiers.values():
        layers = convolutions(classifier)
        factors = random_factors(layers)
        logits = substituted(classifier, scaled(classifier, layers, factors), images)
        gradients = torch.autograd.grad(logits.square().sum(), factors)
        outcomes.append([logits, *gradients])
        assert all(gradient.abs().max() > 0 for gradient in gradients)
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.detach().abs().max()))


@pytest.mark.parametrize("suffix", FILES)
def test_a_factor_of_zero_silences_the_channel(classifiers, images, suffix):
    classifier = classifiers[suffix].copy()
    layers = convolutions(classifier)
    factors = ones(classifier, layers)
    before = classifier.logits(images)
    torch.testing.assert_close(
        substituted(classifier, scaled(classifier, layers, factors), images), before, rtol=0, atol=0
    )
    factors[3][5] = 0
    bake(classifier, scaled(classifier, layers, factors))
    with taps(classifier, layers) as tap:
        tapped = tap(images)
        assert (tapped.output(3)[:, 5] == 0).all()
        assert (tapped.inputs[4][:, 5] == 0).all()
        assert (tapped.output(3)[:, 4] != 0).any()


def test_noise_on_biases_alone(classifiers, images):
    classifier = classifiers["onnx"]
    layers = convolutions(classifier)
    factors = ones(classifier, layers)
    values = scaled(classifier, layers, factors, [factor * 1.5 for factor in factors])
    named = classifier.model.named()
    for layer in layers:
        assert torch.equal(values[layer.weight], named[layer.weight])
        assert torch.equal(values[layer.bias], named[layer.bias] * 1.5)
    assert not torch.equal(substituted(classifier, values, images), classifier.logits(images))


@pytest.mark.parametrize("suffix", FILES)
def test_baked_masks_become_an_edit(classifiers, images, suffix):
    classifier = classifiers[suffix]
    copy = classifier.copy()
    layers = convolutions(copy)
    factors = random_factors(layers)
    values = scaled(copy, layers, factors)
    expected = substituted(copy, values, images).detach()
    bake(copy, values)
    edit = edit_of(classifier.model, copy.network.network)
    assert set(edit.tensors) == {name for layer in layers for name in layer.scaled}
    again = Classifier(apply_edit(classifier.model, edit), classifier.mean, classifier.std)
    torch.testing.assert_close(again.logits(images), expected)
    assert torch.equal(classifier.logits(images), classifiers[suffix].logits(images))


class Odd(nn.Module):
    """A depthwise convolution, one used twice, one read by two, and a convolution as head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(6, 5, 1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.bare = nn.BatchNorm2d(6, affine=False)

    def forward(self, x):
        x = self.first(x)
        x = torch.relu(self.norm(x) + x)
        x = torch.relu(self.bare(self.depth(x)))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)


@pytest.fixture
def odd(opened):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = opened(Odd(), ("head.weight", "head.bias"))
    model.head = replace(model.head, layout="conv")
    return Classifier(model, (0.5,) * 3, (0.25,) * 3)


def test_odd_networks(odd):
    first, depth, twice = convolutions(odd)
    assert (first.weight, first.bias, first.norm) == ("first.weight", "first.bias", None)
    assert (depth.weight, depth.depthwise, depth.groups) == ("depth.weight", True, 6)
    assert depth.scaled == (None, None)
    assert not depth.maskable
    assert (twice.weight, twice.bias, twice.norm) == ("twice.weight", None, None)
    assert [layer.weight for layer in require_convolutions(odd)] == ["first.weight", "twice.weight"]
    with taps(odd, (twice,)) as tap:
        tapped = tap(torch.rand(4, 3, 8, 8))
        assert tapped.inputs[0].shape == tapped.output(0).shape == (4, 6, 8, 8)


def test_a_bias_that_is_no_weight_cannot_be_masked(odd):
    odd.model.tensors = {n: n for n in odd.model.tensors if n != "first.bias"}
    first, *_ = layers = convolutions(odd)
    assert first.fixed_bias
    assert not first.maskable
    with taps(odd, layers) as tap, pytest.raises(ValueError, match="no weight"):
        tap(torch.rand(4, 3, 8, 8)).output(0)


def test_networks_without_convolutions_are_refused(opened):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model = opened(network, ("1.weight", "1.bias"))
    with pytest.raises(Problem, match="no convolution"):
        require_convolutions(Classifier(model, (0.5,), (0.5,)), torch.zeros(1, 3, 8, 8))


def test_a_fixed_batch_is_joined(tmp_path, images):
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip
    torch.onnx.export(network, (images[:2],), tmp_path / "m.onnx", dynamo=False)
    classifier = Classifier(open_model(read_source(tmp_path / "m.onnx")), (0.0,), (1.0,))
    layers = convolutions(classifier, images)
    assert len(layers) == 2
    with taps(classifier, layers) as tap:
        tapped = tap(images)
        torch.testing.assert_close(tapped.inputs[1], network[1](network[0](images)))
        torch.testing.assert_close(tapped.output(1), network[2](tapped.inputs[1]))
