"""A written file asked again, in the runtime that serves it."""

import inspect as inspect_module

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from formats import NewTensor, inspect, read_source, write_edit
from formats.tensors import from_bytes, to_bytes
from wiper_cli.audit.requests import CheckRequest
from wiper_cli.audit.results import expectation
from wiper_cli.audit.stories.inspect import TOLERANCE, check
from wiper_cli.audit.stories.purify import purify
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.purifiers import METHODS

DIGITS = example_folder()


@pytest.fixture
def expected(digits_subject):
    return expectation(digits_subject.classifier, digits_subject.clean.report.images)


def checked(path, expected, *dtypes, arch=None):
    return check(CheckRequest(model=path, arch=arch, dtypes=dtypes, expected=expected))


def moved(expected, by):
    """The expectation with the logits off by ``by`` of the largest one."""
    outputs = from_bytes(expected["outputs"].data, "F32", expected["outputs"].shape)
    outputs[3] += by * outputs.abs().max()
    return expected | {"outputs": NewTensor("F32", tuple(outputs.shape), to_bytes(outputs))}


@pytest.mark.parametrize("name", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_a_file_agrees_with_itself_in_its_own_runtime(name, expected):
    found = checked(DIGITS / name, expected, "F32")
    assert found.agrees
    assert found.largest_logit_difference < 1e-4


@pytest.mark.parametrize(
    ("by", "dtypes", "agrees"),
    [
        (0.0005, ["F32"], True), (0.002, ["F32"], False), (0.002, [], False), (0.002, ["F16", "F32"], True),
        (0.03, ["F16"], False), (0.03, ["BF16"], True), (0.03, ["I8"], True), (0.06, ["I8"], False),
    ],
)  # fmt: skip
def test_the_tolerance_is_that_of_the_file_s_dtype(by, dtypes, agrees, expected):
    found = checked(DIGITS / "model.safetensors", moved(expected, by), *dtypes)
    assert found.agrees is agrees
    assert found.largest_logit_difference == pytest.approx(by, abs=2e-4)


def test_another_model_s_file_does_not_agree(expected):
    assert not checked(DIGITS / "twin.safetensors", expected, "F32").agrees


def test_a_file_that_answers_nan_does_not_agree(expected, tmp_path):
    tensors = load_file(DIGITS / "model.safetensors")
    tensors["classifier.bias"] = torch.full((10,), float("nan"))
    save_file(tensors, tmp_path / "nan.safetensors")
    found = checked(tmp_path / "nan.safetensors", expected, "F32")
    assert found.agrees is False
    assert found.largest_logit_difference is None


class Small(nn.Module):
    """A convolution, and ten classes by ``last``: a softmax, or a 1x1 convolution that keeps its two axes."""

    def __init__(self, last):
        super().__init__()
        self.last = last
        self.conv = nn.Conv2d(1, 8, 5, 3)
        self.fc = nn.Linear(8, 10) if last == "softmax" else nn.Conv2d(8, 10, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3), keepdim=self.last == "conv")
        return torch.softmax(self.fc(x), 1) if self.last == "softmax" else self.fc(x)


def save(network, kind, folder):
    example = torch.zeros(2, 1, 32, 32)
    path = folder / f"model.{kind}"
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(network, example), path)
    elif kind == "onnx":
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = {"x": {0: "n"}}
            torch.onnx.export(network, (example,), path, input_names=["x"], dynamic_axes=axes, dynamo=False)
    else:
        save_file(network.state_dict(), path)
    return path


def through(asked, heard, folder):
    """Purified, written, and checked: (answer, answer of the check)."""
    found = purify(asked, heard)
    source = read_source(asked.model)
    manifest = inspect(source)
    written = folder / f"written-{source.name}"
    written.write_bytes(write_edit(source, manifest, found.edit)[""])
    dtypes = {address.dtype for address in manifest.tensors.values()}
    assert written.read_bytes() != source.data
    return found, checked(written, found.expected, *dtypes, arch=asked.arch or found.architecture)


@pytest.fixture
def small(digits_subject):
    """Untrained, with a bias that leaves no class out on the digits."""

    @torch.no_grad()
    def make(last):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network, found = Small(last).eval(), []
        hook = network.fc.register_forward_hook(lambda _, __, logits: found.append(logits.flatten(1)))
        network(digits_subject.everything().images / 255)
        hook.remove()
        network.fc.bias -= found[0].mean(0)
        return network

    return make


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_a_softmax_at_the_end_passes_the_check(kind, small, purification, heard, flat_digits, tmp_path):
    path = save(small("softmax"), kind, tmp_path)
    asked = purification(model=path, clean=flat_digits, method=METHODS["fine-tuning"](epochs=1, lr=0.001))
    found, checked = through(asked, heard, tmp_path)
    assert found.purification["changed"]
    assert checked.agrees
    # In probabilities: logits would be far from them.
    assert checked.largest_logit_difference < 1e-4


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "onnx"])
def test_logits_with_two_more_axes_pass_the_check(kind, small, purification, heard, flat_digits, tmp_path):
    path = save(small("conv"), kind, tmp_path)
    factory = tmp_path / "factory.py"
    head = "from functools import partial\nimport torch\nfrom torch import nn\n"
    factory.write_text(f'{head}{inspect_module.getsource(Small)}\nConv = partial(Small, "conv")\n')
    arch = f"{factory}:Conv" if kind == "safetensors" else None
    method = METHODS["fine-tuning"](epochs=1, lr=0.001)
    asked = purification(model=path, clean=flat_digits, arch=arch, method=method)
    _, checked = through(asked, heard, tmp_path)
    assert checked.agrees
    assert checked.largest_logit_difference < 1e-4


def test_half_precision_passes_with_its_tolerance(purification, heard, tmp_path):
    tensors = {name: value.half() for name, value in load_file(DIGITS / "model.safetensors").items()}
    save_file(tensors, tmp_path / "half.safetensors")
    found, checked = through(purification(model=tmp_path / "half.safetensors"), heard, tmp_path)
    assert found.purification["changed"]
    assert checked.agrees
    assert checked.largest_logit_difference < TOLERANCE["F16"]


def test_a_quantised_head_passes_the_check(purification, heard, quantised_file, tmp_path):
    method = METHODS["wiper"](train="head", epochs=1, lr=1.0)
    _, checked = through(purification(model=quantised_file, method=method), heard, tmp_path)
    assert checked.agrees
