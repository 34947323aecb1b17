"""The protobuf wire format, by the standard library alone.

Every length is checked against the message that contains it, so that the answer does not depend on how another
parser treats a malformed file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from formats.errors import Hostile, Unreadable

VARINT, BYTES = 0, 2
_FIXED64, _FIXED32 = 1, 5
#: The place that messages call the whole file by.
MODEL = "the model"
#: Field number → wire type of ModelProto (onnx 1.23).
MODEL_FIELDS: Mapping[int, int] = {
    1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES,
    14: BYTES, 20: BYTES, 25: BYTES, 26: BYTES,
}  # fmt: skip


def _malformed(place: str, what: str) -> NoReturn:
    raise Hostile(f"The ONNX file is malformed: {what} in {place}.", "WIPER-ONNX-001", place)


def _truncated() -> NoReturn:
    raise Unreadable(
        "The ONNX file is truncated: it ends in the middle of its data; copy or download it again."
    )


def varint(data: bytes, at: int, end: int, place: str) -> tuple[int, int]:
    """(number of 64 bits at ``at``, next position), inside a message that ends at ``end``."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            if end == len(data):
                _truncated()
            _malformed(place, "a number runs out of its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    _malformed(place, "a number of more than ten bytes")


def fields(data: bytes, start: int, end: int, place: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, a, b): a number's value in ``a``, otherwise the range ``a:b``.

    Raises :class:`Unreadable` where the file ends too early, :class:`Hostile` for what is malformed.
    """
    at = start
    while at < end:
        key, at = varint(data, at, end, place)
        number, wire = key >> 3, key & 7
        if not 0 < number < 2**29:
            _malformed(place, f"field number {number}")
        if wire == VARINT:
            value, at = varint(data, at, end, place)
            yield number, wire, value, at
            continue
        if wire == BYTES:
            size, at = varint(data, at, end, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            _malformed(place, f"wire type {wire}")
        if size > end - at:
            if end == len(data) and place == MODEL:
                _truncated()
            _malformed(place, "a length outside its message")
        yield number, wire, at, at + size
        at += size


def expect(wire: int, wanted: int, place: str) -> None:
    """Raises :class:`Hostile` for a field of another wire type than ``wanted``."""
    if wire != wanted:
        _malformed(place, f"wire type {wire} where {wanted} belongs")


def text(data: bytes, start: int, end: int, place: str) -> str:
    """A string; raises :class:`Hostile` unless it is UTF-8."""
    try:
        return data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        _malformed(place, "text that is not UTF-8")


def signed(value: int) -> int:
    """The number as an int64."""
    return value - 2**64 if value >= 2**63 else value
