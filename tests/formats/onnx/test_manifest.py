"""Addresses from the wire format, and what is refused."""

import hashlib

import numpy as np
import onnx
import pytest
import tiny_onnx as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from formats.errors import Hostile, Unreadable, Unsupported
from formats.model import Source
from formats.onnx.manifest import external_locations, read_manifest
from formats.onnx.opener import open_file


def held(source, address):
    data = source.files[address.member] if address.member else source.data
    return data[address.offset : address.offset + address.length]


def refused(data, files=None):
    with pytest.raises(Hostile) as caught:
        read_manifest(Source("m", data, files or {}))
    return caught.value.rule


def test_properties_do_not_hide_the_facts():
    model = tiny.classifier()
    helper.set_model_props(model, {"opset": "99", "mean": "0.5"})
    told = {
        "opset": "17",
        "mean": "0.5",
        "producer": "tests",
        "ir_version": "8",
        "graph": "tiny",
        "nodes": "5",
    }
    assert read_manifest(tiny.source_of(model)).metadata == told


def test_constant_nodes_are_addressed_by_their_output():
    value = tiny.array(0, 3, 4)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(value, "inner")),
        *tiny.nodes("Flatten x > f; MatMul f w > y"),
    ]
    source = tiny.source_of(tiny.make_model(nodes, {}, shape=("n", 3, 1, 1)))
    address = read_manifest(source).tensors["w"]
    assert np.array_equal(np.frombuffer(held(source, address), "<f4").reshape(3, 4), value)


def test_identity_chains_are_aliases():
    nodes = tiny.nodes("Identity w > w1; Identity w1 > w2; Flatten x > f; MatMul f w2 > y")
    manifest = read_manifest(
        tiny.source_of(tiny.make_model(nodes, {"w": tiny.array(0, 3, 4)}, shape=("n", 3, 1, 1)))
    )
    assert manifest.tensors["w"].aliases == ("w1", "w2")


def test_payloads_outside_raw_data():
    values = tiny.array(0, 2, 3)
    packed = helper.make_tensor("packed", TensorProto.FLOAT, [2, 3], values.reshape(-1).tolist())
    whole = helper.make_tensor("whole", TensorProto.INT64, [3], [1, -2, 300])
    half = helper.make_tensor("half", TensorProto.FLOAT16, [2], [1.5, -2.0])
    model = tiny.make_model(tiny.nodes("Flatten x > y"), {})
    model.graph.initializer.extend([packed, whole, half])
    source = tiny.source_of(model)
    tensors = read_manifest(source).tensors
    assert tensors["packed"].writable
    assert np.array_equal(np.frombuffer(held(source, tensors["packed"]), "<f4").reshape(2, 3), values)
    assert not tensors["whole"].writable
    assert not tensors["half"].writable


def test_external_data():
    model, files = tiny.externalised(tiny.classifier(), least=20)
    source = tiny.source_of(model, files)
    tensors = read_manifest(source).tensors
    assert (tensors["fc.bias"].member, tensors["fc.weight"].member) == ("", "weights.data")
    with pytest.raises(Unreadable, match=r"weights\.data"):
        read_manifest(Source("m", source.data))
    assert refused(source.data, {"weights.data": files["weights.data"][:-1]}) == "WIPER-ONNX-009"


def test_initializers_on_one_range_are_tied():
    model, files = tiny.tied(
        tiny.make_model(tiny.nodes("Flatten x > y"), {"a": tiny.array(0, 4), "b": tiny.array(0, 4)})
    )
    tensors = read_manifest(tiny.source_of(model, files)).tensors
    assert (tensors["a"].aliases, tensors["b"].aliases) == (("b",), ("a",))
    assert tensors["a"].writable
    model.graph.initializer[1].dims[:] = [2, 2]
    assert not read_manifest(tiny.source_of(model, files)).tensors["a"].writable


#: (key of external data, value, rule).
KEYS = [
    ("__class__", "x", "WIPER-ONNX-007"),
    ("offset", "64", "WIPER-ONNX-007"),
    ("length", "-1", "WIPER-ONNX-007"),
    ("length", "1e3", "WIPER-ONNX-007"),
    ("length", "7", "WIPER-ONNX-009"),
    ("location", "", "WIPER-ONNX-007"),
]


def keyed(key, value):
    model, files = tiny.externalised(tiny.classifier())
    tensor = model.graph.initializer[0]
    if key in ("length", "location"):
        next(one for one in tensor.external_data if one.key == key).value = value
    else:
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return model.SerializeToString(), files


@pytest.mark.parametrize(("key", "value", "rule"), KEYS)
def test_external_keys(key, value, rule):
    assert refused(*keyed(key, value)) == rule


def test_a_checksum_makes_a_tensor_read_only():
    model, files = tiny.externalised(tiny.classifier())
    digest = hashlib.sha1(files["weights.data"]).hexdigest()
    model.graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="checksum", value=digest))
    tensors = read_manifest(tiny.source_of(model, files)).tensors
    assert not tensors["conv.weight"].writable
    assert tensors["fc.weight"].writable


SUBGRAPH = helper.make_graph(
    [helper.make_node("Identity", ["t"], ["o"])], "g", [], [helper.make_empty_tensor_value_info("o")]
)


def sparse(tensor, part):
    """``tensor`` as the values or the indices of a sparse one."""
    whole = onnx.SparseTensorProto(dims=[4])
    whole.values.CopyFrom(numpy_helper.from_array(tiny.array(0, 1), "t"))
    whole.indices.CopyFrom(numpy_helper.from_array(np.array([0])))
    getattr(whole, part).CopyFrom(tensor)
    return whole


def anywhere(tensor):
    """Where a tensor can stand besides the main graph's initializers and Constants: name → model."""
    places = {}

    def new(name, nodes=()):
        model = tiny.classifier()
        model.graph.node.extend(nodes)
        places[name] = model
        return model

    attribute = helper.make_attribute("value", tensor)
    several = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
    one = onnx.AttributeProto(
        name="value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(tensor, "values")
    )
    many = onnx.AttributeProto(
        name="value", type=onnx.AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse(tensor, "indices")]
    )
    for kind, held in {
        "tensor": attribute,
        "tensors": several,
        "sparse": one,
        "sparse tensors": many,
    }.items():
        new(kind, [helper.make_node("ConstantOfShape", ["fc.bias"], ["odd"])]).graph.node[
            -1
        ].attribute.append(held)
    branch = onnx.GraphProto()
    branch.CopyFrom(SUBGRAPH)
    branch.initializer.append(tensor)
    deep = onnx.GraphProto()
    deep.CopyFrom(SUBGRAPH)
    deep.node.insert(0, helper.make_node("If", ["x"], ["t"], then_branch=branch))
    constant = onnx.GraphProto()
    constant.CopyFrom(SUBGRAPH)
    constant.node.insert(0, helper.make_node("Constant", [], ["t"], value=tensor))
    for name, graph in {"subgraph": branch, "deep": deep, "constant inside": constant}.items():
        new(name, [helper.make_node("If", ["x"], ["odd"], then_branch=graph)])
    new("sparse initializer").graph.sparse_initializer.append(sparse(tensor, "values"))
    new("sparse indices").graph.sparse_initializer.append(sparse(tensor, "indices"))
    body = helper.make_node("Constant", [], ["b"], value=tensor)
    imports = [helper.make_opsetid("", 17)]
    new("function").functions.append(helper.make_function("l", "F", [], ["b"], [body], imports))
    function = helper.make_function("l", "F", [], [], [], imports)
    function.attribute_proto.append(attribute)
    new("function's default").functions.append(function)
    new("training, at its start").training_info.add().initialization.CopyFrom(branch)
    new("training").training_info.add().algorithm.CopyFrom(branch)
    return places


def outside(location="weights.data"):
    tensor = numpy_helper.from_array(tiny.array(0, 1), "t")
    onnx.external_data_helper.set_external_data(tensor, location, 0, 4)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


@pytest.mark.parametrize("place", anywhere(outside()))
def test_external_data_is_seen_wherever_it_stands(place):
    model = anywhere(outside())[place]
    with pytest.raises(Hostile) as caught:  # before any file is opened
        external_locations(model.SerializeToString())
    assert caught.value.rule == "WIPER-ONNX-012"
    assert refused(model.SerializeToString(), {"weights.data": b"1234"}) == "WIPER-ONNX-012"
    wrong = numpy_helper.from_array(tiny.array(0, 2), "t")
    wrong.dims[0] = 3
    assert refused(anywhere(wrong)[place].SerializeToString()) == "WIPER-ONNX-005"


def test_external_data_of_a_constant_of_the_main_graph_is_read():
    tensor = outside()
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), *tiny.nodes("Flatten x > f; Mul f w > y")]
    source = tiny.source_of(tiny.make_model(nodes, {}), {"weights.data": tiny.array(5, 1).tobytes()})
    assert read_manifest(source).tensors["w"].member == "weights.data"
    x = tiny.images(2, 3, 8, 8)
    result = open_file(source, read_manifest(source)).network(x)
    torch.testing.assert_close(result, x.flatten(1) * float(tiny.array(5, 1)[0]))


@pytest.mark.parametrize("place", ["sparse initializer", "training"])
def test_what_is_not_supported_is_named(place):
    model = anywhere(numpy_helper.from_array(tiny.array(0, 1), "t"))[place]
    with pytest.raises(Unsupported, match="sparse form" if place[0] == "s" else "training"):
        read_manifest(tiny.source_of(model))


def test_one_range_for_many_tensors_is_not_inlined_without_end(monkeypatch):
    monkeypatch.setattr("formats.onnx.manifest._MAX_INLINED", 2**20)
    model, files = tiny.externalised(
        tiny.make_model(tiny.nodes("Flatten x > y"), {"a": np.zeros(2**16, np.float32)})
    )
    first = model.graph.initializer[0]
    read_manifest(tiny.source_of(model, files))
    for number in range(5):
        first.name = f"a{number}"
        model.graph.initializer.append(first)
    del model.graph.initializer[0]
    with pytest.raises(Unsupported, match="2 GiB"):
        read_manifest(tiny.source_of(model, files))


def test_many_tensors_on_one_range_are_read_only():
    model, files = tiny.externalised(tiny.make_model(tiny.nodes("Flatten x > y"), {"a": tiny.array(0, 4)}))
    first = model.graph.initializer[0]
    for number in range(100):
        first.name = f"a{number}"
        model.graph.initializer.append(first)
    del model.graph.initializer[0]
    tensors = read_manifest(tiny.source_of(model, files)).tensors
    assert not any(one.writable or one.aliases for one in tensors.values())


def test_opsets_in_two_versions():
    model = tiny.classifier()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    read_manifest(tiny.source_of(model))
    model.opset_import[1].version = 13
    assert refused(model.SerializeToString()) == "WIPER-ONNX-003"


def test_two_inputs_of_one_name():
    model = tiny.classifier()
    model.graph.input.append(model.graph.input[0])
    assert refused(model.SerializeToString()) == "WIPER-ONNX-003"


def test_initializer_that_is_an_input():
    model = tiny.classifier()
    model.graph.input.append(helper.make_tensor_value_info("fc.bias", TensorProto.FLOAT, [4]))
    assert refused(model.SerializeToString()) == "WIPER-ONNX-004"
    model.ir_version = 3  # where the format demanded it
    assert "fc.bias" in read_manifest(tiny.source_of(model)).tensors


#: (rule, change of the initializers).
CONTRADICTIONS = [
    ("003", lambda tensors: tensors.append(tensors[0])),
    *(("005", lambda tensors, dims=dims: tensors[2].dims.__setitem__(slice(None), dims))
      for dims in ([4, 7], [24, -1, -1], [2**40, 2**40], [])),
    ("006", lambda tensors: tensors[3].float_data.extend([1, 2, 3, 4])),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), CONTRADICTIONS)
def test_initializers_that_contradict(rule, change):
    model = tiny.classifier()
    change(model.graph.initializer)
    assert refused(model.SerializeToString()) == f"WIPER-ONNX-{rule}"


def test_concatenated_models():
    assert refused(tiny.classifier().SerializeToString() * 2) == "WIPER-ONNX-010"


def test_nothing_and_no_graph():
    with pytest.raises(Unreadable, match="is empty"):
        read_manifest(Source("m", b""))
    with pytest.raises(Unreadable, match="no graph"):
        read_manifest(Source("m", b"\x08\x08"))
