"""New tensor values into an ONNX file: their byte ranges are overwritten, every other byte stays."""

from __future__ import annotations

from collections.abc import Mapping

from formats.model import Edit, Manifest, Source
from formats.onnx.wire import BYTES, fields
from formats.ranges import overwritten

#: Message → field → the message in it, where tensors can stand below; ``value``: that of a key (onnx 1.23).
_BELOW: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {2: "value"},
}


def members(source: Source) -> dict[str, bytes]:
    """The model file under "", external files by their location."""
    return {"": source.data, **source.files}


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The files that change, named as by :func:`members`."""
    return overwritten(members(source), manifest, edit)


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """The model file with external files called ``names[location]``: besides the names, only the lengths of the
    messages around them change. ``data`` has passed the gate."""
    found = _renamed(data, 0, len(data), "model", {old.encode(): new.encode() for old, new in names.items()})
    return data if found is None else found


def _renamed(data: bytes, start: int, end: int, kind: str, names: Mapping[bytes, bytes]) -> bytes | None:
    """One message anew; ``None`` where it names no such file."""
    if kind == "value":
        return names.get(data[start:end])
    if kind == "entry":
        keys = [data[a:b] for tag, a, b in fields(data, start, end, kind) if tag == 1 << 3 | BYTES]
        if keys != [b"location"]:
            return None
    parts, kept, at = list[bytes](), start, start
    for tag, a, b in fields(data, start, end, kind):
        below = _BELOW[kind].get(tag >> 3) if tag & 7 == BYTES else None
        new = _renamed(data, a, b, below, names) if below else None
        if new is not None:
            parts += [data[kept:at], _varint(tag), _varint(len(new)), new]
            kept = b
        at = b
    return b"".join([*parts, data[kept:end]]) if parts else None


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
