"""The messages of an ONNX file as plain dictionaries, by the standard library alone.

Every field of every message is held against the table below, whether or not it is kept: unknown fields, a field that
may stand once and stands twice, text that is not UTF-8. Time and memory are bounded by the number of fields.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from formats.errors import Hostile, Unsupported
from formats.onnx.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    MODEL,
    VARINT,
    count_numbers,
    fields,
    malformed,
    numbers,
    signed,
)

#: Field name → value: an int, a text, a :class:`Range`, a message, a list of one of these. Absent fields are absent.
Message = dict[str, Any]

_MAX_DEPTH = 64
#: A kept text costs one more for each 32 bytes.
_MAX_FIELDS = 1_000_000
_MAX_TEXT = 1 << 24

#: Field number, ``*`` where it repeats, ``|`` where only one of its like may stand, ``-`` where nobody here asks for
#: it; name; kind: int, float (repeated: a list), varint, f32, f64 (a :class:`Range`), text, bytes, or a message.
_TABLE = """
ModelProto: 1 ir_version int; 2 producer_name text; 3 producer_version text; 4- domain text; 5- model_version int;
  6- doc_string text; 7 graph GraphProto; 8* opset_import OperatorSetIdProto; 14* metadata_props StringStringEntryProto;
  20* training_info TrainingInfoProto; 25* functions FunctionProto; 26*- configuration DeviceConfigurationProto
GraphProto: 1* node NodeProto; 2 name text; 5* initializer TensorProto; 10- doc_string text; 11* input ValueInfoProto;
  12* output ValueInfoProto; 13*- value_info ValueInfoProto; 14*- quantization_annotation TensorAnnotation;
  15* sparse_initializer SparseTensorProto; 16*- metadata_props StringStringEntryProto
NodeProto: 1* input text; 2* output text; 3 name text; 4 op_type text; 5* attribute AttributeProto; 6- doc_string text;
  7 domain text; 8 overload text; 9*- metadata_props StringStringEntryProto;
  10*- device_configurations NodeDeviceConfigurationProto
FunctionProto: 1 name text; 4* input text; 5* output text; 6* attribute text; 7* node NodeProto; 8- doc_string text;
  9* opset_import OperatorSetIdProto; 10 domain text; 11* attribute_proto AttributeProto;
  12*- value_info ValueInfoProto; 13 overload text; 14*- metadata_props StringStringEntryProto
AttributeProto: 1 name text; 2 f float; 3 i int; 4 s bytes; 5 t TensorProto; 6 g GraphProto; 7* floats float;
  8* ints int; 9* strings bytes; 10* tensors TensorProto; 11* graphs GraphProto; 13- doc_string text; 14 tp TypeProto;
  15* type_protos TypeProto; 20 type int; 21 ref_attr_name text; 22 sparse_tensor SparseTensorProto;
  23* sparse_tensors SparseTensorProto
TensorProto: 1* dims int; 2 data_type int; 3 segment TensorProto.Segment; 4* float_data f32; 5* int32_data varint;
  6* string_data bytes; 7* int64_data varint; 8 name text; 9 raw_data bytes; 10* double_data f64;
  11* uint64_data varint; 12- doc_string text; 13* external_data StringStringEntryProto; 14 data_location int;
  16*- metadata_props StringStringEntryProto
SparseTensorProto: 1 values TensorProto; 2 indices TensorProto; 3*- dims int
TrainingInfoProto: 1 initialization GraphProto; 2 algorithm GraphProto;
  3*- initialization_binding StringStringEntryProto; 4*- update_binding StringStringEntryProto
ValueInfoProto: 1 name text; 2 type TypeProto; 3- doc_string text; 4*- metadata_props StringStringEntryProto
TypeProto: 1| tensor_type TypeProto.Tensor; 4| sequence_type TypeProto.Sequence; 5| map_type TypeProto.Map;
  6- denotation text; 7| opaque_type TypeProto.Opaque; 8| sparse_tensor_type TypeProto.SparseTensor;
  9| optional_type TypeProto.Optional
TypeProto.Tensor: 1 elem_type int; 2 shape TensorShapeProto
TypeProto.SparseTensor: 1 elem_type int; 2 shape TensorShapeProto
TypeProto.Sequence: 1 elem_type TypeProto
TypeProto.Optional: 1 elem_type TypeProto
TypeProto.Map: 1 key_type int; 2 value_type TypeProto
TypeProto.Opaque: 1 domain text; 2 name text
TensorShapeProto: 1* dim TensorShapeProto.Dimension
TensorShapeProto.Dimension: 1| dim_value int; 2| dim_param text; 3- denotation text
OperatorSetIdProto: 1 domain text; 2 version int
StringStringEntryProto: 1 key text; 2 value text
TensorProto.Segment: 1 begin int; 2 end int
TensorAnnotation: 1 tensor_name text; 2* quant_parameter_tensor_names StringStringEntryProto
DeviceConfigurationProto: 1 name text; 2 num_devices int; 3* device text
NodeDeviceConfigurationProto: 1 configuration_id text; 2* sharding_spec ShardingSpecProto; 3 pipeline_stage int
ShardingSpecProto: 1 tensor_name text; 2* device int; 3* index_to_device_group_map IntIntListEntryProto;
  4* sharded_dim ShardedDimProto
IntIntListEntryProto: 1 key int; 2* value int
ShardedDimProto: 1 axis int; 2* simple_sharding SimpleShardedDimProto
SimpleShardedDimProto: 1| dim_value int; 2| dim_param text; 3 num_shards int
"""
_WIRES: Mapping[str, int] = {
    "int": VARINT,
    "float": FIXED32,
    "varint": VARINT,
    "f32": FIXED32,
    "f64": FIXED64,
}
_SIZES: Mapping[str, int] = {"float": 4, "f32": 4, "f64": 8}


class Field(NamedTuple):
    """``alone``: the name that may stand once, with those of which only one may stand; empty where it repeats."""

    name: str
    kind: str
    alone: str
    kept: bool


def _compiled(table: str) -> dict[str, dict[int, Field]]:
    """Message → tag → field; a number that repeats may be packed."""
    compiled: dict[str, dict[int, Field]] = {}
    for message, listed in re.findall(r"^([\w.]+): (.*(?:\n  .*)*)", table, re.MULTILINE):
        tags = compiled[message] = {}
        for number, marks, name, kind in re.findall(r"(\d+)([*|-]*) (\w+) ([\w.]+)", listed):
            field = Field(name, kind, "" if "*" in marks else "|" if "|" in marks else name, "-" not in marks)
            tags[int(number) << 3 | _WIRES.get(kind, BYTES)] = field
            if "*" in marks and kind in _WIRES:
                tags[int(number) << 3 | BYTES] = field
    return compiled


FIELDS = _compiled(_TABLE)


@dataclass(slots=True)
class Range:
    """Bytes of the file, left in place: a string or ``count`` numbers; ``whole``: they are all in this range."""

    start: int
    end: int
    count: int = 1
    whole: bool = True

    def __iadd__(self, more: Range) -> Range:
        self.count += more.count
        self.whole = False
        return self


@dataclass
class _Parser:
    data: bytes
    left: int

    def message(self, kind: str, start: int, end: int, depth: int = 0) -> Message:
        if depth > _MAX_DEPTH:
            raise Hostile(f"The ONNX file nests messages deeper than {_MAX_DEPTH}.", "WIPER-ONNX-002")
        known, found = FIELDS[kind], Message()
        for tag, a, b in fields(self.data, start, end, kind):
            self.left -= 1
            if self.left < 0:
                self.spend(0)
            name, of, alone, kept = known.get(tag) or _unknown(kind, tag)
            value: Any
            if of == "text":
                value = self.text(a, b, kind, kept)
            elif of in FIELDS:
                value = self.message(of, a, b, depth + 1)
            else:
                value = self.number(of, alone, tag & 7, a, b, kind)
            if alone:
                if alone in found:
                    raise Hostile(
                        f"The ONNX file holds a {kind} with {name} twice, or beside what excludes it; readers take "
                        "one or merge them.",
                        "WIPER-ONNX-010",
                        name,
                    )
                found[alone] = None
                if kept:
                    found[name] = value
            elif not kept:
                continue
            elif name not in found:
                found[name] = value if of in _WIRES else [value]
            elif of in _WIRES:
                found[name] += value
            else:
                found[name].append(value)
        return found

    def spend(self, fields: int) -> None:
        self.left -= fields
        if self.left < 0:
            raise Unsupported(f"The ONNX file has more than {_MAX_FIELDS} fields, more than any classifier.")

    def text(self, start: int, end: int, place: str, kept: bool) -> str:
        if end - start > _MAX_TEXT:
            raise Unsupported(f"The ONNX file holds a text of {end - start} bytes in {place}.")
        self.spend((end - start) // 32 if kept else 0)
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            malformed(place, "text that is not UTF-8")

    def number(self, kind: str, alone: str, wire: int, start: int, end: int, place: str) -> Any:
        """Numbers and bytes; ``start`` is itself the number where the wire type says so."""
        if kind == "int" and wire == VARINT:
            return signed(start) if alone else [signed(start)]
        packed = wire == BYTES
        if packed and kind in _SIZES and (end - start) % _SIZES[kind]:
            malformed(place, "a packed field of odd length")
        if kind in ("int", "float"):
            self.spend(end - start if packed else 0)
            if kind == "int":
                return list(numbers(self.data, start, end, place))
            values = [one for (one,) in struct.iter_unpack("<f", self.data[start:end])]
            return values[0] if alone else values
        if kind == "bytes" or not packed:
            return Range(start, end, 1, packed)
        if kind == "varint":
            return Range(start, end, count_numbers(self.data, start, end, place))
        return Range(start, end, (end - start) // _SIZES[kind])


def _unknown(kind: str, tag: int) -> NoReturn:
    if tag >> 3 in {known >> 3 for known in FIELDS[kind]}:
        malformed(kind, f"wire type {tag & 7} in field {tag >> 3}")
    raise Unsupported(
        f"The ONNX file holds a {kind} with an unknown field, number {tag >> 3}: it was made by a later version "
        "of ONNX, or not by ONNX; export the network again."
    )


def parse(data: bytes) -> Message:
    """The ModelProto that the file is.

    Raises :class:`Unreadable` for a truncated file, :class:`Hostile` for a malformed one, and :class:`Unsupported` for
    unknown fields and for what is too large to be a classifier.
    """
    return _Parser(data, _MAX_FIELDS).message(MODEL, 0, len(data))
