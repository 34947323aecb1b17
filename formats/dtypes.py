"""The dtypes of stored tensors under the names of safetensors, which serve all kinds; plain data, no torch.

``torch`` and ``numpy`` are attributes of those modules, ``None`` where values are never computed with. A file of
TorchScript names the ``storage``, an ONNX file the number ``onnx`` of ``TensorProto.DataType``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Dtype(NamedTuple):
    """``size``: bytes of one element."""

    size: int
    torch: str | None
    numpy: str | None
    storage: str
    onnx: int


DTYPES: Mapping[str, Dtype] = {
    "F64": Dtype(8, "float64", "float64", "DoubleStorage", 11),
    "F32": Dtype(4, "float32", "float32", "FloatStorage", 1),
    "F16": Dtype(2, "float16", "float16", "HalfStorage", 10),
    "BF16": Dtype(2, "bfloat16", None, "BFloat16Storage", 16),
    "I64": Dtype(8, "int64", "int64", "LongStorage", 7),
    "I32": Dtype(4, "int32", "int32", "IntStorage", 6),
    "I16": Dtype(2, "int16", "int16", "ShortStorage", 5),
    "I8": Dtype(1, "int8", "int8", "CharStorage", 3),
    "U64": Dtype(8, None, "uint64", "UInt64Storage", 13),
    "U32": Dtype(4, None, "uint32", "UInt32Storage", 12),
    "U16": Dtype(2, None, "uint16", "UInt16Storage", 4),
    "U8": Dtype(1, "uint8", "uint8", "ByteStorage", 2),
    "BOOL": Dtype(1, "bool", "bool", "BoolStorage", 9),
    "F8_E4M3": Dtype(1, "float8_e4m3fn", None, "Float8_e4m3fnStorage", 17),
    "F8_E5M2": Dtype(1, "float8_e5m2", None, "Float8_e5m2Storage", 19),
    "C64": Dtype(8, None, "complex64", "ComplexFloatStorage", 14),
}

#: Bits of one element of every dtype that safetensors 0.8 defines; of those not above nothing here reads the values.
BITS: Mapping[str, int] = {name: 8 * one.size for name, one in DTYPES.items()} | {
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip

#: What weights are stored in; the last two are computed in float32.
FLOATS = ("F64", "F32", "F16", "BF16")
