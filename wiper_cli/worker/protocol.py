"""Frames between parent and child: 8 bytes little-endian length, 1 byte kind, payload. Standard library only."""

from __future__ import annotations

import json
import struct
from typing import IO, Any, Literal

#: ``J``: a JSON object. ``T``: tensors as a safetensors container.
FrameKind = Literal["J", "T"]

#: Largest JSON payload in bytes: a report with all its thumbnails stays far below.
JSON_LIMIT = 64 << 20
#: Largest tensor payload in bytes.
TENSOR_LIMIT = 16 << 30

_HEADER = struct.Struct("<Qc")


class ProtocolError(Exception):
    """The other side sent something that is no frame."""


def send_json(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Writes one JSON frame and flushes. NaN and infinities are refused (``ValueError``)."""
    _send(stream, b"J", json.dumps(message, allow_nan=False, separators=(",", ":")).encode())


def send_tensors(stream: IO[bytes], payload: bytes) -> None:
    """Writes one tensor frame and flushes."""
    _send(stream, b"T", payload)


def _send(stream: IO[bytes], kind: bytes, payload: bytes) -> None:
    stream.write(_HEADER.pack(len(payload), kind))
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[FrameKind, Any] | None:
    """Reads one frame: ``("J", dict)`` or ``("T", bytes)``; ``None`` at a clean end.

    Raises ProtocolError on a truncated, oversized or malformed frame.
    """
    head = stream.read(_HEADER.size)
    if not head:
        return None
    if len(head) < _HEADER.size:
        raise ProtocolError("truncated frame header")
    length, kind = _HEADER.unpack(head)
    if kind == b"J" and length <= JSON_LIMIT:
        payload = _exactly(stream, length)
        try:
            message = json.loads(payload)
        except ValueError as error:
            raise ProtocolError("a JSON frame does not parse") from error
        if not isinstance(message, dict):
            raise ProtocolError("a JSON frame is not an object")
        return "J", message
    if kind == b"T" and length <= TENSOR_LIMIT:
        return "T", _exactly(stream, length)
    raise ProtocolError("unknown or oversized frame")


def _exactly(stream: IO[bytes], length: int) -> bytes:
    payload = stream.read(length)
    if len(payload) != length:
        raise ProtocolError("truncated frame")
    return payload
