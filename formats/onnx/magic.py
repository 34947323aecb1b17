"""ONNX: a graph and its tensors as one protobuf message, or with its tensors in files beside it."""

from __future__ import annotations

from formats.errors import Hostile, Unreadable
from formats.onnx.wire import MODEL, MODEL_FIELDS, fields

_VERSION, _GRAPH = 1, 7


def recognises(data: bytes) -> bool:
    """Whether the fields are those of a ModelProto with a version and a graph, as far as the file goes."""
    seen = set()
    try:
        for number, wire, _, _ in fields(data, 0, len(data), MODEL):
            if MODEL_FIELDS.get(number) != wire:
                return False
            seen.add(number)
    except Unreadable:
        return _VERSION in seen
    except Hostile:
        return False
    return {_VERSION, _GRAPH} <= seen
