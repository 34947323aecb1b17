"""What the gate accepts, onnx reads with the same tensors, and onnxruntime serves them: on files that were damaged."""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_onnx as tiny
from onnx import TensorProto, helper, numpy_helper

from formats.errors import FormatError
from formats.model import Source
from formats.onnx.manifest import external_locations, read_manifest
from formats.onnx.proto import stored

#: Not in :data:`formats.dtypes.DTYPES`.
WITHOUT_ADDRESS = {"four bits", "text"}


def several_types():
    """Tensors in every kind of payload, and properties."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(tiny.array(0, 3, 4))),
        *tiny.nodes("Flatten x > f; MatMul f w > y"),
    ]
    model = tiny.make_model(nodes, {"raw": np.array([[1, -2], [3, 4]])}, shape=("n", 3, 1, 1))
    helper.set_model_props(model, {"a": "b"})
    model.graph.initializer.extend(
        helper.make_tensor(name, kind, [len(values)], values)
        for name, kind, values in (
            ("packed", TensorProto.FLOAT, [1, 2.5, -3]), ("whole", TensorProto.INT64, [1, -2, 300]),
            ("half", TensorProto.FLOAT16, [1.5, -2]), ("wide", TensorProto.DOUBLE, [1.5, -2]),
            ("four bits", TensorProto.INT4, [1, 2, 3]), ("truth", TensorProto.BOOL, [True, False]),
            ("text", TensorProto.STRING, [b"a", b"bc"]), ("large", TensorProto.UINT64, [1, 2**63]),
        )
    )  # fmt: skip
    return model


def with_a_function_and_branches():
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("l", "F", ["a"], ["o"], tiny.nodes("Relu a > r; Neg r > o"), imports)
    branches = {
        name: helper.make_graph(
            tiny.nodes(f"Identity f > {name}"), name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        *tiny.nodes("F x > z | domain='l'; Flatten z > f"),
        helper.make_node("If", ["t"], ["g"], **branches),
        *tiny.nodes("MatMul g w > y"),
    ]
    model = tiny.make_model(nodes, {"w": tiny.array(0, 3, 4), "t": np.array(True)}, shape=("n", 3, 1, 1))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("l", 1))
    return model


def files():
    external, beside = tiny.externalised(tiny.classifier(), least=20)
    made = [
        (tiny.classifier(), {}),
        (external, beside),
        (several_types(), {}),
        (with_a_function_and_branches(), {}),
    ]
    return [(model.SerializeToString(), beside) for model, beside in made]


def damaged(data, chance):
    """A few bytes changed, put in, taken out or copied to elsewhere."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at, way = chance.randrange(len(found)), chance.randrange(5)
        piece = found[at : at + chance.randrange(1, 16)]
        if way == 0:
            found[at] = chance.choice([0, 1, 8, 16, 18, 127, 128, 255, chance.randrange(256)])
        elif way == 1:
            found[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            del found[at]
        elif way == 3:
            found[at:at] = piece
        else:
            to = chance.randrange(len(found))
            found[to : to + len(piece)] = piece
    return bytes(found)


def agreed(data, beside):
    """The manifest of a file that is accepted; onnx must read the same tensors from it."""
    manifest = read_manifest(Source("m", data, beside))
    model = onnx.ModelProto.FromString(data)
    assert set(external_locations(data)) <= set(beside)
    held = dict(stored(model))
    assert set(manifest.tensors) <= set(held)
    for name, address in manifest.tensors.items():
        tensor, member = held[name], data
        if tensor.data_location == TensorProto.EXTERNAL:
            member = beside[address.member]
            tensor.raw_data = member[address.offset : address.offset + address.length]
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
        values = numpy_helper.to_array(tensor)
        assert values.shape == address.shape
        if address.writable:
            assert member[address.offset : address.offset + address.length] == values.tobytes()
    return manifest, model


@pytest.mark.parametrize("seed", range(4))
def test_onnx_reads_the_same_from_damaged_files(seed):
    chance, whole = random.Random(seed), files()
    accepted, refused = 0, 0
    for _ in range(1500):
        data, beside = whole[seed]
        data = damaged(data, chance)
        try:
            agreed(data, beside)
            accepted += 1
        except FormatError:
            refused += 1
    assert accepted > 50
    assert refused > 500


def test_onnxruntime_serves_the_same_tensors():
    """Each stored tensor is made an output: what the runtime then says it is, is what the manifest addresses."""
    model = several_types()
    data = model.SerializeToString()
    manifest, _ = agreed(data, {})
    names = sorted(manifest.tensors)
    assert set(names) == {one.name for one in model.graph.initializer} - WITHOUT_ADDRESS | {"w"}
    for name in names:
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name} told"]))
        model.graph.output.append(onnx.ValueInfoProto(name=f"{name} told"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    told = session.run([f"{name} told" for name in names], {"x": np.zeros((1, 3, 1, 1), np.float32)})
    for name, values in zip(names, told, strict=True):
        address = manifest.tensors[name]
        assert values.shape == address.shape
        if address.writable:
            assert data[address.offset : address.offset + address.length] == values.tobytes()
