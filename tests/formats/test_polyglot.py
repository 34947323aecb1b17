"""Files that are two models: for each the other reader is shown to take it, and then it is refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import safetensors
import torch
from onnx import TensorProto, helper, numpy_helper

from formats import Hostile, Source, inspect
from formats.polyglot import RULES, refuse
from wiper_cli.commands.shared.example_files import example_folder

DIGITS = example_folder()


def tensors(data: bytes, text: str = "", length: int | None = None) -> bytes:
    """A safetensors file whose metadata begin with ``text`` and whose one tensor, of bytes, is ``data``."""
    one = {"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    header = json.dumps({"__metadata__": {"a": text}, **one}, separators=(",", ":")).encode()
    header += b" " * ((length or -(-len(header) // 8) * 8) - len(header))
    return struct.pack("<Q", len(header)) + header + data


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("other/data.pkl", b"x")
    return stream.getvalue()


def graph() -> bytes:
    """A small ONNX model, its graph last."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 2)) for n in "xy"]
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    return model.SerializeToString()


def hidden_graph() -> bytes:
    """The length is field 2, of 100 bytes, and the header from there on fields 6, each as long as one letter says; the
    last of them ends where the data begin."""
    size = 0x12 | 100 << 8
    hop = b"2" + bytes([120])
    last = 8 + size - 102
    text = (hop + b" " * 120) * (last // 122 - 1)
    rest = last - len(text)  # two more, to the end
    text += b"2" + bytes([rest // 2 - 2]) + b" " * (rest // 2 - 2)
    text += b"2" + bytes([8 + size - 102 - len(text) - 2])
    start = 102 - 8 - len('{"__metadata__":{"a":"')
    data = tensors(graph(), " " * start + text.decode(), size)
    assert onnx.load_from_string(data).graph.name == "g"
    return data


def hidden_tar() -> bytes:
    """Blanks are zeros to tar, and a header's first bytes its file's name."""
    block = tensors(b"", " " * 600)[:512]
    field = b"%06o  " % (sum(block[:148] + block[156:]) + 8 * 32)
    data = tensors(b"", " " * (148 - 8 - 22) + field.decode() + " " * 474)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as file:
        assert len(file.getnames()) == 1
    return data


def hidden_checkpoint() -> bytes:
    """The length is the beginning of a string that is thrown away; so is a line to the first end of one."""
    size = ord("X") | 100 << 8
    number = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)[2:]
    data = tensors(b"\n0" + number, " " * (105 - 8 - 22) + "0V", size)
    assert pickle.loads(data) == torch.serialization.MAGIC_NUMBER
    return data


def beginning(mark: bytes) -> bytes:
    """An ONNX file whose producer's name stands where other runtimes look for their mark."""
    return b"\x08\x08\x12" + bytes([len(mark)]) + mark + graph()[2:]


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.namelist() == ["other/data.pkl"]
    return data


FILES = {
    "safetensors with a zip": ("001", lambda: zipped(tensors(archive()))),
    "ONNX with a zip": ("001", lambda: zipped(graph() + b"\x32" + bytes([len(archive())]) + archive())),
    "a zip with a comment": ("001", lambda: zipped(tensors(archive()[:-2] + b"\x10\x27" + b" " * 10_000))),
    "safetensors with a graph": ("002", hidden_graph),
    "ONNX with the mark of ort": ("003", lambda: beginning(b"ORTM")),
    "ONNX with the mark of TensorFlow Lite": ("003", lambda: beginning(b"TFL3")),
    "safetensors before HDF5": ("003", lambda: tensors(b"\x89HDF\r\n\x1a\n" + bytes(900), " " * 900, 1016)),
    "safetensors with a tar": ("004", hidden_tar),
    "safetensors with a checkpoint": ("005", hidden_checkpoint),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "make"), FILES.values(), ids=FILES)
def test_two_models_in_one_file_are_refused(rule, make):
    data = make()
    with pytest.raises(Hostile) as caught:
        inspect(Source("m", data))
    if caught.value.rule == "WIPER-ONNX-001":  # onnx's own reader says more than this
        with pytest.raises(Hostile) as caught:
            refuse(data, "onnx")
    assert caught.value.rule == f"WIPER-POLY-{rule}"
    if data[8:9] == b"{":
        assert safetensors.deserialize(data)[0][0] == "w"


def test_every_rule_has_a_case():
    assert {f"WIPER-POLY-{rule}" for rule, _ in FILES.values()} == {*RULES}


@pytest.mark.parametrize("name", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_an_honest_file_is_one_model(name):
    inspect(Source(name, (DIGITS / name).read_bytes()))


def test_noise_is_no_other_model():
    """Also where it holds the marks that are looked for."""
    noise = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(noise.bytes(4000))
        for mark in (b"PK\5\6", b"PK\1\2", b"PK\6\6", b"ustar"):
            at = int(noise.integers(9, 3900))
            data[at : at + len(mark)] = mark
        refuse(tensors(bytes(data)), "safetensors")
