"""Pickles from which torch.load makes other tensors than stand in them first: converted as it does, or not at all."""

import io
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load

from formats import FormatError
from formats.checkpoint.convert import convert

ORDERED = b"ccollections\nOrderedDict\n"
RECORDS = {"0": (1.0, 2.0, 3.0, 4.0), "1": (9.0, 9.0, 9.0, 9.0)}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def row(*items):
    return b"(" + b"".join(items) + b"t"


def storage(key, kind="Float", count=4, view=b""):
    return (
        row(text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(key), text("cpu"), number(count), view)
        + b"Q"
    )


def tensor(held, metadata=b""):
    arguments = row(held, number(0), row(number(4)), row(number(1)), b"\x89", ORDERED + b")R", metadata)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def parameter(state):
    arguments = row(W, b"\x88", ORDERED + b")R", state)
    return b"ctorch._utils\n_rebuild_parameter_with_state\n" + arguments + b"R"


def entry(key, value):
    return b"}" + text(key) + value + b"s"


W, OTHER = tensor(storage("0")), tensor(storage("1"))
WHOLE = b"\x80\x02" + ORDERED + b")R(" + text("w") + b"%su."


def archived(pickled):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for key, values in RECORDS.items():
            archive.writestr(f"archive/data/{key}", struct.pack("<4f", *values))
    return buffer.getvalue()


OTHERWISE = {
    "state of a tensor": W + row(storage("1"), number(0), row(number(4)), row(number(1))) + b"b",
    "elements of a tensor": W + number(0) + b"G" + struct.pack(">d", 9) + b"s",
    "negated": tensor(storage("0"), entry("neg", b"\x88")),
    "attribute of a parameter": parameter(entry("data", OTHER)),
    "attribute in slots": parameter(row(b"N", entry("data", OTHER))),
    "storage of two types": W + text("v") + tensor(storage("0", "Int")),
    "state given twice": b"cm\nN\n)\x81" + entry("a", W) + b"b" + entry("b", OTHER) + b"b" + text("v") + W,
}  # fmt: skip


@pytest.mark.parametrize("value", OTHERWISE.values(), ids=OTHERWISE)
def test_a_tensor_that_is_made_and_then_changed(value):
    with pytest.raises(FormatError):
        convert(archived(WHOLE % value))


@pytest.mark.parametrize("name", ["state of a tensor", "negated", "attribute of a parameter"])
def test_torch_does_change_it(name):
    found = torch.load(io.BytesIO(archived(WHOLE % OTHERWISE[name])), weights_only=True)["w"]
    assert found.tolist() != [1, 2, 3, 4]


@pytest.mark.parametrize(
    "value",
    [
        ORDERED + b"](" + row(text("w"), W) + b"e\x85R.",
        ORDERED + entry("w", W) + b"\x85R.",
        b"ccollections\ndefaultdict\nN" + entry("w", W) + b"\x86R.",
        b"}" + text("w") + parameter(entry("scale", b"N")) + b"s.",
        b"}(" + text("w") + W + b"\x8b" + struct.pack("<I", 4000) + b"\x01" * 4000 + b"Nu.",
    ],
    ids=["pairs", "mapping", "defaultdict", "harmless attribute", "huge key"],
)
def test_what_is_made_in_another_way_is_converted(value):
    data = archived(b"\x80\x02" + value)
    assert load(convert(data).data)["w"].tolist() == [1, 2, 3, 4]


def test_a_view_of_a_storage_in_the_old_layout():
    def old(view, count):
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        first = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, machine)]
        values = sum((RECORDS[key] for key in ("0", "1")), ())[:count]
        value = WHOLE % tensor(storage("0", count=count, view=view))
        return b"".join([*first, value, pickle.dumps(["0"], 2), struct.pack(f"<q{count}f", count, *values)])

    assert load(convert(old(b"N", 4)).data)["w"].tolist() == [1, 2, 3, 4]
    shifted = old(row(text("view"), number(4), number(4)), 8)
    assert torch.load(io.BytesIO(shifted))["w"].tolist() == [9, 9, 9, 9]
    with pytest.raises(FormatError):
        convert(shifted)
