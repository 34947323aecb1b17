"""ONNX: a graph and its tensors as one protobuf message, or with its tensors in files beside it."""

from __future__ import annotations

from itertools import islice

from formats.errors import Hostile, Unreadable
from formats.onnx.messages import FIELDS
from formats.onnx.wire import BYTES, MODEL, VARINT, fields

_VERSION, _GRAPH = 1 << 3 | VARINT, 7 << 3 | BYTES
#: Fields of the outermost message that are looked at; writers put the graph before what repeats.
_ENOUGH = 10_000


def recognises(data: bytes) -> bool:
    """Whether the fields are those of a ModelProto with a version and a graph, as far as the file goes."""
    seen = set()
    try:
        for tag, _, _ in islice(fields(data, 0, len(data), MODEL), _ENOUGH):
            if tag not in FIELDS[MODEL]:
                break
            seen.add(tag)
    except Unreadable:
        return _VERSION in seen
    except Hostile:
        return False
    return {_VERSION, _GRAPH} <= seen
