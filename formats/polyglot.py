"""Whether another reader would take a file for a model of another kind; standard library only.

Each check asks for less than that reader does, and for more than chance gives: an honest file passes all of them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping

from formats.errors import Hostile
from formats.model import Kind

#: What no honest file is beside what it seems to be, one id each; ids are stable and never reused.
RULES: Mapping[str, str] = {
    "WIPER-POLY-001": "It ends in a ZIP archive, which torch.jit.load and zipfile open.",
    "WIPER-POLY-002": "It is a protobuf message with a graph, which onnx and onnxruntime load.",
    "WIPER-POLY-003": "It has the mark of an .ort, TensorFlow Lite or HDF5 file.",
    "WIPER-POLY-004": "It begins like a tar archive, which torch.load unpacks.",
    "WIPER-POLY-005": "It begins with the pickles of an old checkpoint, which torch.load reads.",
}

#: First of the pickles in a checkpoint of torch before 1.6.
_CHECKPOINT = 0x1950A86A20F9469CFC6C
_MARKS = ((4, b"ORTM"), (4, b"TFL3"))
_HDF5 = b"\x89HDF\r\n\x1a\n"


def refuse(data: bytes, kind: Kind) -> None:
    """Raises :class:`Hostile` where a file of this kind is one of another, too."""
    for number, holds in enumerate((_zip, _graph, _mark, _tar, _checkpoint), 1):
        own = (kind, holds) in (("torchscript", _zip), ("onnx", _graph))
        if not own and holds(data):
            rule = f"WIPER-POLY-{number:03}"
            raise Hostile(f"Another reader takes this {kind} file for another model. {RULES[rule]}", rule)


def _zip(data: bytes) -> bool:
    """The record that ends an archive, in the last 64 KiB, points at a directory: counted from the beginning of the
    file, or backwards as zipfile does; or it is the longer record."""
    at = len(data)
    while (at := data.rfind(b"PK\5\6", max(0, len(data) - 65_600), at)) >= 0:
        size, offset = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (12, 16))
        places = [offset, *([at - size] if size <= at else [])]
        if data[at - 20 : at - 16] == b"PK\6\7" or any(data[i : i + 4] == b"PK\1\2" for i in places):
            return True
    return False


def _graph(data: bytes) -> bool:
    """Field by field to its very end, and field 7 is a message; unknown fields are passed over."""
    at, found = 0, False
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
        size = {0: 0, 1: 8, 2: 0, 3: 0, 4: 0, 5: 4}.get(wire)
        if not number or size is None:
            return False
        if wire in (0, 2):
            value, at = _varint(data, at)
            size = value if wire == 2 else 0
        found |= number == 7 and wire == 2
        at += size
    return found and at == len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends: outside the file where it has no end."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    return 0, len(data) + 1


def _mark(data: bytes) -> bool:
    place = 512
    while place < len(data):  # where HDF5 looks behind what others put first
        if data.startswith(_HDF5, place):
            return True
        place *= 2
    return any(data.startswith(mark, place) for place, mark in _MARKS)


def _tar(data: bytes) -> bool:
    """The checksum of the first header is right; older archives have no mark."""
    block, field = data[:512], data[148:156].strip(b" \0")
    digits = field.isdigit() and not set(field) & set(b"89")
    return len(block) == 512 and digits and int(field, 8) == sum(block) - sum(data[148:156]) + 8 * 32


def _checkpoint(data: bytes) -> bool:
    try:
        return any(argument == _CHECKPOINT for _, argument, _ in pickletools.genops(data))
    except Exception:  # whatever it raises, this is no pickle
        return False
