"""Weights moved by name and shape into a trusted definition, and what is left behind or missing."""

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load, load_file, save
from small_classifiers import DIGITS

from formats import Source, UnknownArchitecture
from formats.safetensors.pack import safetensors_file
from formats.safetensors.rebuild import rebuilt
from triggers.architectural import implant
from triggers.families.badnet import BadNet

DEFINITION = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)).mean([2, 3]))
"""
STATE = {
    "stem.weight": torch.rand(4, 3, 3, 3), "stem.bias": torch.rand(4), "head.weight": torch.rand(5, 4),
    "head.bias": torch.rand(5), "norm.weight": torch.rand(4), "norm.bias": torch.rand(4),
    "norm.running_mean": torch.rand(4), "norm.running_var": torch.rand(4),
}  # fmt: skip


@pytest.fixture
def arch(tmp_path):
    (tmp_path / "net.py").write_text(DEFINITION)
    return f"{tmp_path / 'net.py'}:Net"


@pytest.mark.parametrize("variant", ["conv", "where"])
def test_the_weights_of_a_branched_torchscript_are_those_of_the_honest_file(variant):
    data = (DIGITS / "model.torchscript.pt").read_bytes()
    found = rebuilt(
        Source("m.pt", implant("torchscript", data, variant, BadNet().placed(1, 32, 32), 7)),
        "research/vgg11-bn",
    )
    honest, ours = load_file(DIGITS / "model.safetensors"), load(safetensors_file(found.tensors))
    assert ours.keys() == honest.keys()
    assert all(torch.equal(ours[name], honest[name]) for name in honest)
    assert (found.architecture, found.moved) == ("research/vgg11-bn", len(honest))
    assert found.left
    assert all(name.startswith("constants.") for name in found.left)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_leftovers_are_listed_and_counters_made(prefix, arch):
    state = {prefix + name: value for name, value in STATE.items()}
    found = rebuilt(Source("m.safetensors", save({**state, prefix + "branch.weight": torch.rand(3)})), arch)
    ours = load(safetensors_file(found.tensors))
    assert found.left == (prefix + "branch.weight",)
    assert found.moved == len(STATE)
    assert ours.pop("norm.num_batches_tracked") == 0
    assert all(torch.equal(ours[name], STATE[name]) for name in STATE)


def test_weights_are_taken_from_onnx_in_the_dtype_of_the_file(arch):
    graph = onnx.helper.make_graph([], "g", [], [])
    graph.initializer.extend(numpy_helper.from_array(v.half().numpy(), name) for name, v in STATE.items())
    value = onnx.helper.make_tensor_value_info
    graph.input.append(value("x", onnx.TensorProto.FLOAT16, ["n", 3, 8, 8]))
    graph.node.append(onnx.helper.make_node("Identity", ["x"], ["y"]))
    graph.output.append(value("y", onnx.TensorProto.FLOAT16, ["n", 3, 8, 8]))
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    ours = load(safetensors_file(rebuilt(Source("m.onnx", model.SerializeToString()), arch).tensors))
    assert torch.equal(ours["head.weight"], STATE["head.weight"].half())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stem.bias", None),
        ("head.weight", torch.rand(4, 5)),
        ("head.bias", torch.zeros(5, dtype=torch.int32)),
    ],
)
def test_what_is_missing_or_of_another_form_is_named(name, value, arch):
    state = {**STATE, name: value}
    data = save({key: held for key, held in state.items() if held is not None})
    with pytest.raises(
        UnknownArchitecture, match=rf"no tensor of the right name and shape for {name} \(7 of 9"
    ):
        rebuilt(Source("m.safetensors", data), arch)


def test_an_unknown_definition_is_refused():
    with pytest.raises(UnknownArchitecture, match="No architecture is called 'resnet-nothing'"):
        rebuilt(Source("m.safetensors", save(STATE)), "resnet-nothing")
