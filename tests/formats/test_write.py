"""What the conformance tests do not reach: what the proof finds, in which words."""

import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from formats import Address, Edit, EditError, Manifest, NewTensor, Source, inspect, write_edit


def new(values):
    return NewTensor("F32", tuple(values.shape), values.numpy().tobytes())


@pytest.fixture
def source():
    return Source("m", save({"a": torch.arange(6.0).reshape(2, 3), "c": torch.arange(3)}, {"format": "pt"}))


@pytest.mark.parametrize(
    ("door", "wrong", "sentence"),
    [
        (
            "formats.safetensors.patch.patch",
            lambda *_: {"other": b""},
            "The edit would write other files than the model's own.",
        ),
        (
            "formats.safetensors.patch.patch",
            lambda source, *_: {"": source.data},
            "Writing changed more or less of the file than the edit says; nothing was kept.",
        ),
        (
            "formats.write.inspect",
            lambda source: replace(inspect(source), tensors={}),
            "The written file describes other tensors than the original; nothing was kept.",
        ),
        (
            "formats.write.inspect",
            lambda source: replace(inspect(source), metadata={}),
            "The written file describes other tensors than the original; nothing was kept.",
        ),
        (
            "formats.safetensors.patch.members",
            lambda source: {"": source.data, str(source.data): b""},
            "The written file has other parts than the original; nothing was kept.",
        ),
    ],
)
def test_what_a_reader_or_writer_does_wrong_is_found(source, monkeypatch, door, wrong, sentence):
    manifest, edit = inspect(source), Edit({"a": new(torch.ones(2, 3))})
    monkeypatch.setattr(door, wrong)
    with pytest.raises(EditError) as caught:
        write_edit(source, manifest, edit)
    assert str(caught.value) == sentence


def test_shared_storage_that_a_reader_overlooked_is_found(monkeypatch):
    """``tail`` begins inside ``a``; a tensor that cannot be written has no place to be compared."""
    tensors = {
        "elsewhere": Address("elsewhere", "x.bin", 0, 4, "U8", (4,)),
        "odd": Address("odd", "w.bin", 0, 4, "U8", (4,), writable=False),
        "a": Address("a", "w.bin", 0, 4, "U8", (4,)),
        "tail": Address("tail", "w.bin", 2, 4, "U8", (4,)),
    }
    source = Source("m.onnx", b"graph", {"x.bin": b"1234", "w.bin": b"abcdef"})
    manifest = Manifest("onnx", tensors)
    monkeypatch.setattr("formats.write.inspect", lambda _: manifest)
    edit = Edit({"a": NewTensor("U8", (4,), b"ABCD")})
    with pytest.raises(EditError) as caught:
        write_edit(source, manifest, edit)
    assert (
        str(caught.value) == "Tensor 'tail' shares storage with an edited tensor and cannot keep its values."
    )
    both = Edit({**edit.tensors, "tail": NewTensor("U8", (4,), b"CDEF")})
    assert write_edit(source, manifest, both) == {"": b"graph", "w.bin": b"ABCDEF"}
    del tensors["tail"]
    assert write_edit(source, manifest, edit) == {"": b"graph", "w.bin": b"ABCDef"}
    monkeypatch.setattr("formats.onnx.patch.patch", lambda *_: {})
    with pytest.raises(EditError, match=r"more or less of part 'w\.bin' of the file than"):
        write_edit(source, manifest, edit)


def test_a_header_whose_length_spells_another_magic(source):
    """Its first bytes are those of a ZIP file."""
    (length,) = struct.unpack_from("<Q", source.data)
    longer = int.from_bytes(b"PK", "little")
    text = source.data[8 : 8 + length].ljust(longer)
    data = struct.pack("<Q", longer) + text + source.data[8 + length :]
    found = Source("m", data)
    assert data[:2] == b"PK"
    assert write_edit(found, inspect(found), Edit({})) == {"": data}
    written = write_edit(found, inspect(found), Edit({"a": new(torch.ones(2, 3))}))[""]
    assert torch.equal(load(written)["a"], torch.ones(2, 3))
