"""What opening decides on the network itself: classes, input, head, softmax, damaged weights."""

import pytest
import torch
from safetensors.torch import save
from torch import nn
from torchscript_files import as_bytes

from formats import Source, Unsupported, head_values, open_model
from formats.model import InputSpec, Manifest
from formats.open import _check_finite, _Classifier, _find_input


class Then(nn.Module):
    def __init__(self, then, channels=3, unused=None):
        super().__init__()
        self.then, self.unused = then, unused
        self.body, self.fc = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.then(self.fc(self.body(x).relu().mean((2, 3))))


NETWORKS = {
    "plain": lambda: Then(lambda z: z),
    "grey": lambda: Then(lambda z: z, 1),
    "many": lambda: Then(lambda z: z, 9),
    "softmax": lambda: Then(lambda z: z.softmax(1)),
    "sequence": lambda: Then(lambda z: (z, z * 2)),
    "mapping": lambda: Then(lambda z: {"logits": z}),
    "spatial": lambda: Then(lambda z: z[:, :, None, None]),
    "one": lambda: Then(lambda z: z[:, :1]),
    "image": lambda: Then(lambda z: z[:, :, None, None].expand(-1, -1, 3, 3)),
    "fixed": lambda: nn.Sequential(nn.Conv2d(1, 2, 5, stride=5), nn.Flatten(), nn.Linear(2 * 5 * 5, 3)),
    "extra": lambda: Then(lambda z: z, unused=nn.Linear(3, 3)),
    "impossible": lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 3)),
}


def __getattr__(name):
    """What ``--arch`` asks this file for."""
    if name in NETWORKS:
        return NETWORKS[name]
    raise AttributeError(name)


def source_of(name, change=lambda state: None, **source):
    """(source, arch) of a network of this file, after a change of its state."""
    torch.manual_seed(0)
    state = NETWORKS[name]().state_dict()
    change(state)
    return Source("m", save(state), **source), f"{__file__}:{name}"


def images(channels=3, size=16):
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_plain():
    model = open_model(*source_of("plain"))
    assert (model.kind, model.classes, model.head_only) == ("safetensors", 5, False)
    assert (model.input.channels, model.input.height, model.input.batch) == (3, None, None)
    assert not model.network.training
    assert {name for name, p in model.named().items() if p.requires_grad} == set(model.tensors)


def test_channels_and_a_fixed_size_are_found():
    assert [open_model(*source_of(name)).input.channels for name in ("grey", "many")] == [1, 9]
    spec = open_model(*source_of("fixed")).input
    assert (spec.channels, spec.height, spec.width, spec.origin) == (1, 28, 28, "derived")


@pytest.mark.parametrize("name", ["sequence", "mapping", "spatial"])
def test_the_first_output_serves_as_logits(name):
    with torch.no_grad():
        expected = open_model(*source_of("plain")).network(images())
        assert torch.equal(open_model(*source_of(name)).network(images()), expected)


def test_softmax_is_undone_up_to_a_constant():
    plain, model = open_model(*source_of("plain")), open_model(*source_of("softmax"))
    with torch.no_grad():
        expected = plain.network(images()).log_softmax(1)
        torch.testing.assert_close(model.network(images()), expected, rtol=1e-5, atol=1e-6)
    assert model.head.linear
    assert any("softmax" in note for note in model.notes)
    assert torch.equal(head_values(model)[0], head_values(plain)[0])


def test_one_number_cut_out_of_several_has_no_head_of_its_own():
    model = open_model(*source_of("one"))
    assert (model.classes, model.head) == (2, None)


@pytest.mark.parametrize(("name", "words"), [("image", "shape"), ("impossible", "sizes")])
def test_what_is_no_image_classifier_is_refused(name, words):
    with pytest.raises(Unsupported, match=words):
        open_model(*source_of(name))


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), r"body\.weight"), (float("inf"), r"body\.weight"), (3e38, "finite")]
)
def test_damaged_weights_are_named(value, words):
    def damage(state):
        state["body.weight"][1 : None if value == 3e38 else 2] = value

    with pytest.raises(Unsupported, match=words):
        open_model(*source_of("plain", damage))


def test_unused_weights_are_left_out():
    model = open_model(*source_of("extra"))
    assert "unused.weight" in model.manifest.tensors
    assert not any(name.startswith("unused") for name in model.tensors)


def test_hints_beside_the_model():
    sidecars = {
        "config.json": b'{"id2label": {"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}}',
        "preprocessor_config.json": b'{"image_mean": [0.5], "image_std": [0.5], "size": 48}',
    }
    model = open_model(*source_of("plain", sidecars=sidecars))
    assert model.class_names == ("a", "b", "c", "d", "e")
    assert model.preprocessing.size == (48, 48)


def test_statistics_of_batch_norm_are_checked():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network[1].running_var[0] = float("nan")
    with pytest.raises(Unsupported, match="running_var"):
        _check_finite(_Classifier(network), {}, Manifest("safetensors", {}))


@pytest.mark.parametrize("asked", [(3, 65535, 65535, None), (3, 32, 32, 1 << 20), (1 << 40, 1, 1, 1)])
def test_an_input_that_fills_the_memory_is_refused_before_it_is_made(asked):
    declared = InputSpec(*asked, origin="declared")
    with pytest.raises(Unsupported, match="numbers at a time"):
        _find_input(nn.Identity(), declared, [], Manifest("onnx", {}))


class Flattening(nn.Module):
    """A LeNet for pictures of one side alone."""

    def __init__(self, side):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 5)
        self.fc = nn.Linear(6 * ((side - 4) // 2) ** 2, 5)

    def forward(self, x):
        return self.fc(torch.flatten(torch.max_pool2d(self.conv(x).relu(), 2), 1))


@pytest.mark.parametrize(("side", "found"), [(50, 50), (100, 100), (113, 112), (32, 32)])
def test_the_size_that_a_flattened_map_needs_is_found(side, found):
    """None of the usual sizes; of those that give equally many numbers a round one."""
    spec, example, _ = _find_input(Flattening(side).eval(), InputSpec(), [], Manifest("safetensors", {}))
    assert (spec.channels, spec.height, spec.width) == (3, found, found)
    assert example.shape == (2, 3, found, found)


def test_a_scripted_file_of_an_unusual_size_opens():
    network = Flattening(50).eval()
    model = open_model(Source("m.pt", as_bytes(torch.jit.script(network))))
    x = torch.randn(2, 3, 50, 50)
    torch.testing.assert_close(model.network(x), network(x), rtol=1e-4, atol=1e-5)
    assert (model.input.height, model.input.width) == (50, 50)


class WritesElsewhere(nn.Module):
    """Runs without gradients alone: it says where its result is put."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        y = self.fc(x.mean([2, 3]))
        z = torch.zeros(y.shape)
        torch.exp(y, out=z)
        return z


def test_a_network_that_refuses_gradients_is_one_sentence():
    data = as_bytes(torch.jit.script(WritesElsewhere().eval()))
    with pytest.raises(Unsupported, match=r"cannot be differentiated: .* arguments") as refused:
        open_model(Source("m.pt", data))
    assert "\n" not in str(refused.value)
