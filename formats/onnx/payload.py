"""One tensor of an ONNX file: its payload held against its type and dimensions, by the standard library alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported
from formats.model import Address
from formats.onnx.messages import Message, Range
from formats.onnx.wire import numbers

#: TensorProto.DataType → (name, bits). The last ones are measured and get no address; strings are not even that.
_TYPES: Mapping[int, tuple[str, int]] = {one.onnx: (name, 8 * one.size) for name, one in DTYPES.items()} | {
    15: ("C128", 128), 18: ("F8_E4M3FNUZ", 8), 20: ("F8_E5M2FNUZ", 8), 21: ("U4", 4), 22: ("I4", 4),
    23: ("F4_E2M1", 4), 24: ("F8_E8M0", 8), 25: ("U2", 2), 26: ("I2", 2), 27: ("F6_E2M3", 6),
    28: ("F6_E3M2", 6),
}  # fmt: skip
_STRING = 8

#: Payload field → the types that may lie in it (onnx.proto), besides ``raw_data``, where all but strings may.
_TYPED: Mapping[str, tuple[int, ...]] = {
    "float_data": (1, 14),
    "double_data": (11, 15),
    "int64_data": (7,),
    "uint64_data": (12, 13),
    "string_data": (_STRING,),
    "int32_data": tuple(_TYPES.keys() - {1, 7, 11, 12, 13, 14, 15}),
}
_PAYLOADS = ("raw_data", *_TYPED)
_KEYS = ("location", "offset", "length", "checksum")
_EXTERNAL = 1
_MAX_RANK, _MAX_SIZE = 64, 1 << 40
#: Elements of tensors whose values are asked for: shapes, bounds, scales; and how :mod:`struct` reads them.
_FEW = 128
_CODES: Mapping[str, str] = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U64": "Q", "U32": "I",
    "U16": "H", "U8": "B", "BOOL": "?",
}  # fmt: skip


def external(tensor: Message) -> str | None:
    """Name of the file that holds the tensor; ``None`` when it lies in the model file."""
    if "external_data" not in tensor and tensor.get("data_location", 0) != _EXTERNAL:
        return None
    return _entries(tensor)["location"]


def address_of(tensor: Message, called: str | None = None) -> Address | None:
    """Where the values lie, under the name ``called``; ``None`` for types without an address.

    Raises :class:`Hostile` where payload, type, dimensions and external keys disagree.
    """
    name = tensor.get("name", "") if called is None else called
    shape = shape_of(tensor)
    payloads = [field for field in _PAYLOADS if field in tensor]
    member = external(tensor)
    if len(payloads) + (member is not None) > 1:
        raise Hostile(f"Tensor {name!r} has more than one payload.", "WIPER-ONNX-006", name)
    if "segment" in tensor:
        raise Unsupported(f"Tensor {name!r} is stored in segments, which no runtime reads.")
    data_type = tensor.get("data_type", 0)
    dtype, bits = _TYPES.get(data_type, ("", 0))
    if not dtype and data_type != _STRING:
        raise Unsupported(f"Tensor {name!r} is of type {data_type}, which ONNX does not define.")
    count = math.prod(shape)
    if member is not None:
        return _outside(name, shape, dtype, (count * bits + 7) // 8, _entries(tensor))
    field = payloads[0] if payloads else ""
    held = tensor.get(field, Range(0, 0, 0))
    if not field:
        fits = count == 0
    elif field == "raw_data":
        fits = bool(dtype) and held.end - held.start == (count * bits + 7) // 8
    elif field == "string_data":
        fits = data_type == _STRING and len(held) == count
    else:
        # Complex numbers take two; as many small ones as fit into a byte take one.
        wanted = 2 * count if data_type in (14, 15) else -(-count // max(8 // bits, 1)) if bits else 0
        fits = data_type in _TYPED[field] and held.count == wanted
        if not held.whole:
            raise Unsupported(f"Tensor {name!r} is stored number by number; save the model again with onnx.")
    if not fits:
        raise Hostile(
            f"Tensor {name!r} of shape {list(shape[:8])} does not fit its payload.", "WIPER-ONNX-005", name
        )
    if dtype not in DTYPES:
        return None
    fixed = field in ("", "raw_data", "float_data", "double_data")
    return Address(name, "", held.start, held.end - held.start, dtype, shape, writable=fixed)


def shape_of(tensor: Message) -> tuple[int, ...]:
    """Dimensions; raises :class:`Hostile` for what is none."""
    dims = tuple(tensor.get("dims", ()))
    small = len(dims) <= _MAX_RANK and all(0 <= size <= _MAX_SIZE for size in dims)
    if not small or math.prod(size for size in dims if size) > _MAX_SIZE:
        name = tensor.get("name", "")
        raise Hostile(
            f"Tensor {name!r} has a negative dimension, or more of them than any tensor.",
            "WIPER-ONNX-005",
            name,
        )
    return dims


def few_numbers(tensor: Message, data: bytes) -> tuple[float, ...] | None:
    """The values of a small tensor, checked before, that lies in the file ``data``; ``None`` for odd types."""
    code = _CODES.get(_TYPES.get(tensor.get("data_type", 0), ("", 0))[0])
    count = math.prod(tensor.get("dims", ()))
    if (
        code is None
        or count > _FEW
        or external(tensor) is not None
        or (code == "e" and "int32_data" in tensor)
    ):
        return None
    for field in ("int32_data", "int64_data", "uint64_data"):
        if field in tensor:
            return tuple(numbers(data, tensor[field].start, tensor[field].end, field))
    held = next(
        (tensor[field] for field in ("raw_data", "float_data", "double_data") if field in tensor), None
    )
    return struct.unpack(f"<{count}{code}", data[held.start : held.end]) if held else ()


def _entries(tensor: Message) -> dict[str, str]:
    """Keys and values of the external data."""
    name, entries = tensor.get("name", ""), dict[str, str]()
    for entry in tensor.get("external_data", ()):
        key = entry.get("key", "")
        if key not in _KEYS or key in entries:
            raise Hostile(
                f"Tensor {name!r} describes its external data by the unknown or repeated key {key[:60]!r}.",
                "WIPER-ONNX-007",
                name,
            )
        entries[key] = entry.get("value", "")
    if not entries.get("location") or tensor.get("data_location", 0) != _EXTERNAL:
        raise Hostile(
            f"Tensor {name!r} does not say where its external data is, or not that it is meant.",
            "WIPER-ONNX-007",
            name,
        )
    return entries


def _outside(
    name: str, shape: tuple[int, ...], dtype: str, size: int, entries: Mapping[str, str]
) -> Address | None:
    offset = _decimal(entries.get("offset", "0"), name)
    length = _decimal(entries["length"], name) if "length" in entries else size
    if not dtype or length != size:
        raise Hostile(
            f"Tensor {name!r} needs {size} bytes, its external data has {length}.", "WIPER-ONNX-009", name
        )
    if dtype not in DTYPES:
        return None
    # A checksum covers the whole external file: it could not stay true.
    writable = "checksum" not in entries
    return Address(name, entries["location"], offset, length, dtype, shape, writable=writable)


def _decimal(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Hostile(
            f"Tensor {name!r} has an external offset or length {text[:30]!r} that is no decimal number.",
            "WIPER-ONNX-007",
            name,
        )
    return int(text)
