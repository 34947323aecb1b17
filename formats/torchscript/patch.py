"""New tensors into a TorchScript archive: only the elements and the checksums of their records change.

Standard library only. Checksums stand in the central directory, in the descriptor behind the payload, and in
the local header unless that leaves it 0.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from formats.errors import EditError
from formats.model import ITEM_SIZE, Address, Edit, Manifest, Source
from formats.torchscript.archive import read_archive

_FORMAT: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_LOCAL_CRC, _CENTRAL_CRC, _DESCRIPTOR_CRC = 14, 16, 4


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The archive with the edited tensors, as ``{"": bytes}``; all other bytes stay as they are.

    Raises EditError when a name, dtype, shape or length does not fit, or when two edits write different
    values into the same elements.
    """
    archive = read_archive(source.data)
    data = bytearray(source.data)
    view = memoryview(data)
    for name, new in edit.tensors.items():
        address = manifest.tensors.get(name)
        if address is None:
            raise EditError(f"The file has no tensor {name!r}.")
        fits = (new.dtype, new.shape) == (address.dtype, address.shape)
        if not fits or len(new.data) != address.elements * ITEM_SIZE[address.dtype]:
            raise EditError(f"New values of {name!r} are not {address.dtype} of shape {list(address.shape)}.")
        if not address.writable:
            raise EditError(f"Tensor {name!r} cannot be written in place: its elements are shared.")
        _copy(view, archive.entries[address.member].payload, address, memoryview(new.data))
    for name, new in edit.tensors.items():
        address = manifest.tensors[name]
        if gather(view, archive.entries[address.member].payload, address) != new.data:
            raise EditError(
                f"Tensor {name!r} shares elements with another edited tensor; their values differ."
            )
    for member in {manifest.tensors[name].member for name in edit.tensors}:
        entry = archive.entries[member]
        crc = struct.pack("<I", zlib.crc32(view[entry.payload : entry.end]))
        places = [entry.central + _CENTRAL_CRC]
        if entry.descriptor is not None:
            places.append(entry.descriptor + _DESCRIPTOR_CRC)
        if any(data[entry.local + _LOCAL_CRC : entry.local + _LOCAL_CRC + 4]):
            places.append(entry.local + _LOCAL_CRC)
        for place in places:
            data[place : place + 4] = crc
    view.release()
    return {"": bytes(data)}


def gather(view: memoryview, payload: int, address: Address) -> bytes:
    """The elements of a tensor, C-contiguous, from the record that begins at ``payload``."""
    if address.stride is None:
        begin = payload + address.offset
        return bytes(view[begin : begin + address.length])
    out = bytearray(address.elements * ITEM_SIZE[address.dtype])
    record, dense, unit = _cells(view, payload, address, memoryview(out))
    for stored, packed in _runs(address, unit):
        dense[packed] = record[stored]
    return bytes(out)


def _copy(view: memoryview, payload: int, address: Address, new: memoryview) -> None:
    if address.stride is None:
        begin = payload + address.offset
        view[begin : begin + address.length] = new
        return
    record, dense, unit = _cells(view, payload, address, new)
    for stored, packed in _runs(address, unit):
        record[stored] = dense[packed]


def _cells(
    view: memoryview, payload: int, address: Address, dense: memoryview
) -> tuple[memoryview, memoryview, int]:
    """Both sides as arrays of elements; the dimension that one slice covers."""
    form = _FORMAT[ITEM_SIZE[address.dtype]]
    begin = payload + address.offset
    record = view[begin : begin + address.length].cast(form)
    return record, dense.cast(form), max(range(len(address.shape)), key=address.shape.__getitem__)


def _runs(address: Address, unit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the record and of the packed tensor that hold the same elements, along dimension ``unit``."""
    stride = address.stride or ()
    packed: list[int] = []
    step = 1
    for n in reversed(address.shape):
        packed.insert(0, step)
        step *= n
    others = [d for d in range(len(address.shape)) if d != unit]
    n = address.shape[unit]
    if 0 in address.shape:
        return
    for index in itertools.product(*(range(address.shape[d]) for d in others)):
        a = sum(i * stride[d] for i, d in zip(index, others, strict=True))
        b = sum(i * packed[d] for i, d in zip(index, others, strict=True))
        yield _slice(a, n, stride[unit]), _slice(b, n, packed[unit])


def _slice(begin: int, count: int, step: int) -> slice:
    return slice(begin, begin + (count - 1) * step + 1, max(step, 1))
