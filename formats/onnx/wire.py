"""The protobuf wire format, by the standard library alone.

Every length is checked against the message that contains it, so that the answer does not depend on how another
parser treats a malformed file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from formats.errors import Hostile, Unreadable

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: The message that is the whole file; what runs out of it is truncated, not malformed.
MODEL = "ModelProto"

_WINDOW = 1 << 20
#: Bytes of numbers by their kind: "c" is continued, "b" ends a number and is more than 1, "a" ends one and is not.
_KINDS = b"aa" + b"b" * 126 + b"c" * 128
#: What protobuf takes for no number: more than ten bytes, or more than 64 bits.
_TOO_LARGE = b"c" * 10, b"c" * 9 + b"b"


def malformed(place: str, what: str) -> NoReturn:
    """Raises :class:`Hostile`."""
    raise Hostile(f"The ONNX file is malformed: {what} in {place}.", "WIPER-ONNX-001", place)


def _runs_out(place: str, what: str) -> NoReturn:
    if place == MODEL:
        raise Unreadable(
            "The ONNX file is truncated: it ends in the middle of its data; copy or download it again."
        )
    malformed(place, what)


def _number(data: bytes, at: int, end: int, place: str, bits: int) -> tuple[int, int]:
    """(number at ``at``, next position), inside a message that ends at ``end``."""
    value = 0
    for shift in range(0, bits + 3, 7):
        if at >= end:
            _runs_out(place, "a number runs out of its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> bits:
                break
            return value, at
    malformed(place, "a number that is too large")


def fields(data: bytes, start: int, end: int, place: str) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, a, b): a number's value in ``a``, otherwise the range ``a:b``. Tag: field · 8 + wire type.

    Raises :class:`Unreadable` where the file ends too early, :class:`Hostile` for what is malformed.
    """
    at = start
    while at < end:
        tag, at = (data[at], at + 1) if data[at] < 0x80 else _number(data, at, end, place, 32)
        wire = tag & 7
        if tag < 8:
            malformed(place, "field number 0")
        if wire == VARINT:
            value, at = _number(data, at, end, place, 64)
            yield tag, value, at
            continue
        if wire == BYTES:
            # One byte says most lengths; the call costs as much as all the rest.
            size = data[at] if at < end else 0x80
            size, at = (size, at + 1) if size < 0x80 else _number(data, at, end, place, 32)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            malformed(place, f"wire type {wire}")
        if size > end - at:
            _runs_out(place, "a length outside its message")
        yield tag, at, at + size
        at += size


def numbers(data: bytes, start: int, end: int, place: str) -> Iterator[int]:
    """The int64 numbers of a packed field."""
    at = start
    while at < end:
        value, at = _number(data, at, end, place, 64)
        yield signed(value)


def count_numbers(data: bytes, start: int, end: int, place: str) -> int:
    """How many numbers a packed field holds, without reading them."""
    count = end - start
    for at in range(start, end, _WINDOW):
        kinds = data[at : min(at + _WINDOW + 9, end)].translate(_KINDS)
        if any(wrong in kinds for wrong in _TOO_LARGE):
            malformed(place, "a number that is too large")
        count -= kinds.count(b"c", 0, _WINDOW)
    if end > start and data[end - 1] >= 0x80:
        malformed(place, "a number runs out of its message")
    return count


def signed(value: int) -> int:
    """The number as an int64."""
    return value - 2**64 if value >= 2**63 else value
