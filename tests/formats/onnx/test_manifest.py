"""Addresses from the wire format, and what is refused."""

import hashlib

import numpy as np
import onnx
import pytest
import tiny_onnx as tiny
from onnx import TensorProto, helper, numpy_helper

from formats.errors import Hostile, Unreadable
from formats.model import Source
from formats.onnx.manifest import external_locations, read_manifest


def held(source, address):
    data = source.files[address.member] if address.member else source.data
    return data[address.offset : address.offset + address.length]


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


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
    model = tiny.make_model([], {})
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
    model, files = tiny.tied(tiny.make_model([], {"a": tiny.array(0, 4), "b": tiny.array(0, 4)}))
    tensors = read_manifest(tiny.source_of(model, files)).tensors
    assert (tensors["a"].aliases, tensors["b"].aliases) == (("b",), ("a",))
    assert tensors["a"].writable
    model.graph.initializer[1].dims[:] = [2, 2]
    assert not read_manifest(tiny.source_of(model, files)).tensors["a"].writable


@pytest.mark.parametrize(
    "location",
    ["../weights", "/etc/passwd", "sub/weights", "a\\b", "..", ".", "", "*/_ORT_MEM_ADDR_/*", "c:x", "a\0b"],
)
def test_locations_that_are_no_plain_name(location):
    model, _ = tiny.externalised(tiny.classifier(), location="placeholder")
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    with pytest.raises(Hostile) as caught:
        external_locations(model.SerializeToString())
    assert caught.value.rule == "WIPER-ONNX-008"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("__class__", "x", "WIPER-ONNX-007"),
        ("offset", "64", "WIPER-ONNX-007"),
        ("length", "-1", "WIPER-ONNX-007"),
        ("length", "1e3", "WIPER-ONNX-007"),
        ("length", "7", "WIPER-ONNX-009"),
    ],
)
def test_external_keys(key, value, rule):
    model, files = tiny.externalised(tiny.classifier())
    tensor = model.graph.initializer[0]
    if key == "length":
        tensor.external_data[2].value = value
    else:
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    assert refused(model.SerializeToString(), files) == rule


def test_a_checksum_makes_a_tensor_read_only():
    model, files = tiny.externalised(tiny.classifier())
    digest = hashlib.sha1(files["weights.data"]).hexdigest()
    model.graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="checksum", value=digest))
    tensors = read_manifest(tiny.source_of(model, files)).tensors
    assert not tensors["conv.weight"].writable
    assert tensors["fc.weight"].writable


def test_initializer_that_is_an_input():
    model = tiny.classifier()
    model.graph.input.append(helper.make_tensor_value_info("fc.bias", TensorProto.FLOAT, [4]))
    assert refused(model.SerializeToString()) == "WIPER-ONNX-004"
    model.ir_version = 3  # where the format demanded it
    assert "fc.bias" in read_manifest(tiny.source_of(model)).tensors


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("003", lambda tensors: tensors.append(tensors[0])),
        *(("005", lambda tensors, dims=dims: tensors[2].dims.__setitem__(slice(None), dims))
          for dims in ([4, 7], [24, -1, -1], [2**40, 2**40], [])),
        ("006", lambda tensors: tensors[3].float_data.extend([1, 2, 3, 4])),
    ],
)  # fmt: skip
def test_initializers_that_contradict(rule, change):
    model = tiny.classifier()
    change(model.graph.initializer)
    assert refused(model.SerializeToString()) == f"WIPER-ONNX-{rule}"


def test_concatenated_models():
    assert refused(tiny.classifier().SerializeToString() * 2) == "WIPER-ONNX-010"


def test_deep_nesting():
    data = b""
    for _ in range(40):  # graph in attribute in node in graph …
        data = message(1, message(5, message(6, data)))
    assert refused(b"\x08\x08" + message(7, data)) == "WIPER-ONNX-002"


def test_nothing_and_lengths_outside_their_parent():
    with pytest.raises(Unreadable, match="is empty"):
        read_manifest(Source("m", b""))
    lying = varint(5 << 3 | 2) + varint(50) + b"abc"
    assert refused(b"\x08\x08" + message(7, lying) + message(2, b"x" * 100)) == "WIPER-ONNX-001"
    assert refused(b"\x08\x08" + message(7, b"\x28\x05")) == "WIPER-ONNX-001"
    assert refused(b"\x08\x08" + message(7, b"\x2b")) == "WIPER-ONNX-001"
