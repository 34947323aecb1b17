"""The table of messages against onnx's own descriptors, and what a malformed message meets."""

import pytest
import tiny_onnx as tiny
from onnx import ModelProto, NodeProto

from formats.errors import Hostile, Unreadable, Unsupported
from formats.onnx import messages
from formats.onnx.messages import FIELDS, parse
from formats.onnx.wire import count_numbers

#: protobuf's number of a type (descriptor.proto) → ours; those of an int all are varints.
KINDS = {1: "f64", 2: "float", 9: "text", 12: "bytes", **dict.fromkeys((3, 4, 5, 8, 13, 14), "int")}
#: Payloads, which stay in place.
PLACED = {"float_data": "f32", "double_data": "f64"}
PLACED |= dict.fromkeys(("int32_data", "int64_data", "uint64_data"), "varint")


def described(found, seen):
    """Message → field number → (name, kind, whether it repeats), as onnx has them."""
    name = found.full_name.removeprefix("onnx.")
    if name in seen:
        return seen
    seen[name] = {}
    for one in found.fields:
        inner = one.message_type
        kind = inner.full_name.removeprefix("onnx.") if inner else PLACED.get(one.name) or KINDS[one.type]
        seen[name][one.number] = one.name, kind, one.is_repeated
        if inner:
            described(inner, seen)
    return seen


def test_every_field_of_every_message_is_known():
    ours = {
        message: {tag >> 3: (one.name, one.kind, not one.alone) for tag, one in known.items()}
        for message, known in FIELDS.items()
    }
    assert ours == described(ModelProto.DESCRIPTOR, {})


def test_what_excludes_each_other_is_what_onnx_says():
    for message, known in FIELDS.items():
        holder = ModelProto.DESCRIPTOR.file.message_types_by_name[message.partition(".")[0]]
        for part in message.split(".")[1:]:
            holder = holder.nested_types_by_name[part]
        choice = {one.name for group in holder.oneofs for one in group.fields}
        assert {one.name for one in known.values() if one.alone == "|"} == choice


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def model(graph=b"", more=b""):
    return b"\x08\x08" + field(7, graph) + more


def node(*parts):
    return field(1, b"".join(parts))


#: (bytes, rule).
MALFORMED = [
    (model(b"\x0b\x0c"), "001"),  # a group, as protobuf had them before there were messages
    (model(b"\x2b"), "001"),
    (model(b"\x28\x05"), "001"),  # an initializer that is a number
    (model(b"\x2a\x32abc"), "001"),  # longer than the graph
    (model(b"\x02\x00"), "001"),  # field number 0
    (model(node(b"\x0a\x02\xff\xfe")), "001"),  # no UTF-8
    (model(node(field(6, b"\xff"))), "001"),  # no UTF-8, in a text that nobody asks for
    (model(b"\xaa\x80\x80\x80\x80\x00\x00"), "001"),  # a tag of six bytes
    (model(field(5, b"\x10" + b"\xff" * 9 + b"\x02")), "001"),  # a number of more than 64 bits
    (model(field(5, field(4, b"\0" * 5))), "001"),  # floats of five bytes
    (model(field(5, field(7, b"\xff" * 10 + b"\0"))), "001"),
    (model(field(5, field(7, b"\x01\x80"))), "001"),
    (model(more=b"\x08\x08"), "010"),
    (model(more=field(7, b"")), "010"),
    (model(node(field(4, b"Relu"), field(4, b"Neg"))), "010"),
    (model(node(field(5, field(5, b"") * 2))), "010"),
    (model(node(field(6, b"a") * 2)), "010"),
    (model(field(11, field(2, field(1, b"") + field(4, b"")))), "010"),  # a tensor and a sequence
]


@pytest.mark.parametrize(("data", "rule"), MALFORMED)
def test_malformed_and_doubled_fields(data, rule):
    with pytest.raises(Hostile) as caught:
        parse(data)
    assert caught.value.rule == f"WIPER-ONNX-{rule}"


def test_deep_nesting():
    data = b""
    for _ in range(40):  # graph in attribute in node in graph …
        data = node(field(5, field(6, data)))
    with pytest.raises(Hostile) as caught:
        parse(model(data))
    assert caught.value.rule == "WIPER-ONNX-002"


@pytest.mark.parametrize(
    ("place", "unknown"),
    [
        ("ModelProto", lambda more: model(more=more)),
        ("NodeProto", lambda more: model(node(more))),
        ("TensorProto", lambda more: model(field(5, more))),
    ],
)
def test_an_unknown_field_is_named(place, unknown):
    with pytest.raises(Unsupported, match=f"a {place} with an unknown field, number 99"):
        parse(unknown(field(99, b"x")))


@pytest.mark.parametrize("end", [1, 3, 20, -1])
def test_a_truncated_file(end):
    with pytest.raises(Unreadable, match="truncated"):
        parse(tiny.classifier().SerializeToString()[:end])


@pytest.mark.parametrize(
    "graph",
    [
        field(5, b"\x25\0\0\x80\x3f" * 1000),  # floats number by number
        field(5, field(1, varint(2**62) * 120)),  # dimensions
        field(1, b"") * 1000,
        node(field(1, b"x" * 2**13) * 4),
    ],
    ids=["floats", "dims", "nodes", "names"],
)
def test_more_fields_than_a_classifier_has(graph, monkeypatch):
    monkeypatch.setattr(messages, "_MAX_FIELDS", 1000)
    with pytest.raises(Unsupported, match="more than 1000 fields"):
        parse(model(graph))


def test_a_text_that_is_no_name():
    with pytest.raises(Unsupported, match="a text of 16777217 bytes in NodeProto"):
        parse(model(node(field(1, b"x" * (2**24 + 1)))))


def test_numbers_left_in_place_are_counted_across_windows(monkeypatch):
    monkeypatch.setattr("formats.onnx.wire._WINDOW", 7)
    some = NodeProto()
    some.attribute.add().ints.extend([3, 2**35, -1, 0, 300, -(2**63)] * 5)
    packed = b"".join(varint(one % 2**64) for one in some.attribute[0].ints)
    assert count_numbers(packed, 0, len(packed), "here") == 30
    for at in range(20):
        with pytest.raises(Hostile, match="too large"):
            count_numbers(b"\0" * at + b"\x80" * 10 + b"\0" * 9, 0, at + 19, "here")


def test_values():
    told = parse(tiny.classifier().SerializeToString())
    assert told["producer_name"] == "tests"
    first = told["graph"]["node"][0]
    assert (first["op_type"], first["input"], first["output"]) == (
        "Conv", ["x", "conv.weight", "conv.bias"], ["a"],
    )  # fmt: skip
    assert first["attribute"][0]["ints"] == [3, 3]
    assert told["graph"]["initializer"][0]["dims"] == [6, 3, 3, 3]
    assert told["graph"]["input"][0]["type"]["tensor_type"]["shape"]["dim"][1]["dim_value"] == 3
    assert messages.parse(b"") == {}
