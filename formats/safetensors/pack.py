"""Tensors by name as the bytes of a safetensors file, and back. Standard library only."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from formats.errors import EditError
from formats.model import NewTensor
from formats.safetensors.manifest import read_header


def pack_tensors(tensors: Mapping[str, NewTensor]) -> bytes:
    """Tensors as a safetensors file with entries ``t0``, ``t1``, …; their names, of any form, stand in the metadata."""
    names = {f"t{i}": name for i, name in enumerate(tensors)}
    return safetensors_file(dict(zip(names, tensors.values(), strict=True)), names)


def safetensors_file(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of nothing but ``tensors``."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name, new in tensors.items():
        end = position + len(new.data)
        header[name] = {"dtype": new.dtype, "shape": list(new.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(new.data for new in tensors.values())


def unpack_tensors(data: bytes) -> dict[str, NewTensor]:
    """The tensors that :func:`pack_tensors` wrote. Raises :class:`FormatError` for anything else."""
    addresses, names = read_header(data)
    if {a.name for a in addresses} != set(names) or len(set(names.values())) != len(names):
        raise EditError("The packed tensors are not all named.")
    found = {a.name: NewTensor(a.dtype, a.shape, data[a.offset : a.offset + a.length]) for a in addresses}
    return {name: found[entry] for entry, name in names.items()}
