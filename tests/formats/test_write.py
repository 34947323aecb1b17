"""What the conformance tests do not reach: aliases, tensors without a place, and what the proof finds."""

import struct

import pytest
import torch
from safetensors.torch import load, save

from formats import Address, Edit, EditError, NewTensor, Source, inspect, write_edit


def new(values):
    return NewTensor("F32", tuple(values.shape), values.numpy().tobytes())


@pytest.fixture
def source():
    return Source("m", save({"a": torch.arange(6.0).reshape(2, 3), "c": torch.arange(3)}, {"format": "pt"}))


def with_address(source, **changes):
    manifest = inspect(source)
    a = manifest.tensors["a"]
    tensors = {**manifest.tensors, "a": Address(**{**a.__dict__, **changes})}
    return type(manifest)(manifest.kind, tensors, manifest.metadata)


def test_unwritable_and_contradicting_aliases_are_refused(source):
    edit = Edit({"a": new(torch.ones(2, 3))})
    with pytest.raises(EditError, match="fixed place"):
        write_edit(source, with_address(source, writable=False), edit)
    tied = with_address(source, aliases=("d",))
    tied = type(tied)(tied.kind, {**tied.tensors, "d": tied.tensors["a"]}, tied.metadata)
    both = Edit({"a": new(torch.ones(2, 3)), "d": new(torch.zeros(2, 3))})
    with pytest.raises(EditError, match="one stored tensor"):
        write_edit(source, tied, both)


def test_a_header_whose_length_spells_another_magic(source):
    """Its first bytes are those of a ZIP file."""
    (length,) = struct.unpack_from("<Q", source.data)
    longer = int.from_bytes(b"PK", "little")
    text = source.data[8 : 8 + length].ljust(longer)
    data = struct.pack("<Q", longer) + text + source.data[8 + length :]
    found = Source("m", data)
    assert data[:2] == b"PK"
    written = write_edit(found, inspect(found), Edit({"a": new(torch.ones(2, 3))}))[""]
    assert torch.equal(load(written)["a"], torch.ones(2, 3))
