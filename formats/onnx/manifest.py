"""Where an ONNX file keeps its tensors, by the standard library alone: only what finds them is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unreadable, Unsupported
from formats.model import Address, Manifest, Source
from formats.onnx.wire import BYTES, MODEL, MODEL_FIELDS, VARINT, expect, fields, signed, text, varint

#: What no honest exporter does, one id each; ids are stable and never reused.
RULES: Mapping[str, str] = {
    "WIPER-ONNX-001": "A message is malformed: a length outside its parent, a wrong wire type, an endless number.",
    "WIPER-ONNX-002": "Messages nest deeper than 64.",
    "WIPER-ONNX-003": "Two initializers have one name.",
    "WIPER-ONNX-004": "An initializer is also a graph input: a caller may replace the weights.",
    "WIPER-ONNX-005": "The dimensions of a tensor do not fit its payload.",
    "WIPER-ONNX-006": "A tensor has more than one payload.",
    "WIPER-ONNX-007": "External data has unknown, repeated or non-decimal keys.",
    "WIPER-ONNX-008": "External data is not one plain file beside the model.",
    "WIPER-ONNX-009": "External data lies outside its file, or is of another length than the tensor.",
    "WIPER-ONNX-010": "A message that may stand once stands twice; parsers would merge them.",
    "WIPER-ONNX-011": "Functions call themselves, or expand beyond 200,000 nodes (checked when opened).",
}

_MAX_DEPTH = 64
_MAX_BYTES = 2**31 - 1  # protobuf's own limit of one message

#: TensorProto.DataType → (name, bits). The last ones are measured and get no address; strings are not even that.
_TYPES: Mapping[int, tuple[str, int]] = {one.onnx: (name, 8 * one.size) for name, one in DTYPES.items()} | {
    15: ("C128", 128), 18: ("F8_E4M3FNUZ", 8), 20: ("F8_E5M2FNUZ", 8), 21: ("U4", 4), 22: ("I4", 4),
    23: ("F4_E2M1", 4), 24: ("F8_E8M0", 8), 25: ("U2", 2), 26: ("I2", 2),
}  # fmt: skip

#: Payload fields of TensorProto → name; ``raw_data`` and the fixed-width ones have a byte range.
_PAYLOADS: Mapping[int, str] = {
    4: "float_data", 5: "int32_data", 6: "string_data", 7: "int64_data", 9: "raw_data",
    10: "double_data", 11: "uint64_data",
}  # fmt: skip
_FIXED_ITEM: Mapping[int, int] = {4: 4, 10: 8}
_EXTERNAL_KEYS = ("location", "offset", "length", "checksum")


@dataclass
class _Walk:
    """What one pass over the file collects."""

    data: bytes
    files: Mapping[str, bytes] | None
    tensors: dict[str, Address] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    locations: list[str] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    opsets: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    nodes: int = 0
    ir_version: int = 0

    def model(self) -> None:
        graph: tuple[int, int] | None = None
        for number, wire, a, b in fields(self.data, 0, len(self.data), MODEL):
            if number in MODEL_FIELDS:
                expect(wire, MODEL_FIELDS[number], MODEL)
            if number == 1:
                self.ir_version = a
            elif number in (2, 3):
                self.facts["producer" if number == 2 else "producer_version"] = self.text(a, b, "producer")
            elif number == 7:
                if graph is not None:
                    raise Hostile(
                        "The ONNX file holds two graphs, which parsers merge into one.", "WIPER-ONNX-010"
                    )
                graph = (a, b)
            elif number == 8:
                domain, version = self.opset(a, b)
                self.opsets[domain] = version
            elif number == 14:
                key, value = self.entry(a, b)
                self.properties[key] = value
            elif number == 25:
                for inner, inner_wire, c, d in fields(self.data, a, b, "a function"):
                    if inner == 7:
                        expect(inner_wire, BYTES, "a function")
                        self.node(c, d, depth=3, top=False)
        if graph is None:
            raise Unreadable("The ONNX file holds no graph.")
        self.graph(*graph, depth=2, top=True)

    def text(self, start: int, end: int, place: str) -> str:
        return text(self.data, start, end, place)

    def opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, a, b in fields(self.data, start, end, "opset_import"):
            if number == 1:
                expect(wire, BYTES, "opset_import")
                domain = self.text(a, b, "opset_import")
            elif number == 2:
                expect(wire, VARINT, "opset_import")
                version = a
        return ("" if domain == "ai.onnx" else domain), version

    def entry(self, start: int, end: int) -> tuple[str, str]:
        found = {1: "", 2: ""}
        for number, wire, a, b in fields(self.data, start, end, "a key with its value"):
            if number in found:
                expect(wire, BYTES, "a key with its value")
                found[number] = self.text(a, b, "a key with its value")
        return found[1], found[2]

    def graph(self, start: int, end: int, depth: int, top: bool) -> None:
        if depth > _MAX_DEPTH:
            raise Hostile(f"The ONNX file nests messages deeper than {_MAX_DEPTH}.", "WIPER-ONNX-002")
        names: set[str] = set()
        for number, wire, a, b in fields(self.data, start, end, "a graph"):
            if number in (1, 2, 5, 11):
                expect(wire, BYTES, "a graph")
            if number == 1:
                self.node(a, b, depth + 1, top)
            elif number == 2 and top:
                self.facts["graph"] = self.text(a, b, "the graph's name")
            elif number == 5:
                name, address = self.tensor(a, b)
                if name in names:
                    raise Hostile(
                        f"Two initializers are called {name!r}; readers disagree which one counts.",
                        "WIPER-ONNX-003",
                        name,
                    )
                names.add(name)
                if top and address is not None:
                    self.tensors[name] = address
            elif number == 11 and top:
                for inner, inner_wire, c, d in fields(self.data, a, b, "a graph input"):
                    if inner == 1:
                        expect(inner_wire, BYTES, "a graph input")
                        self.inputs.add(self.text(c, d, "a graph input"))
        if top:
            self.initializers = names

    def node(self, start: int, end: int, depth: int, top: bool) -> None:
        self.nodes += 1
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[tuple[int, int]] = []
        kind = domain = ""
        for number, wire, a, b in fields(self.data, start, end, "a node"):
            if number in (1, 2, 4, 5, 7):
                expect(wire, BYTES, "a node")
            if number == 1:
                inputs.append(self.text(a, b, "a node"))
            elif number == 2:
                outputs.append(self.text(a, b, "a node"))
            elif number == 4:
                kind = self.text(a, b, "a node")
            elif number == 5:
                attributes.append((a, b))
            elif number == 7:
                domain = self.text(a, b, "a node")
        if domain not in ("", "ai.onnx"):
            self.domains.add(domain)
        elif kind == "Identity" and top and len(inputs) == 1 and len(outputs) == 1:
            self.aliases[outputs[0]] = inputs[0]
        constant = kind == "Constant" and top and len(outputs) == 1 and domain in ("", "ai.onnx")
        for a, b in attributes:
            address = self.attribute(a, b, depth + 1)
            if constant and address is not None:
                self.tensors[outputs[0]] = replace(address, name=outputs[0])

    def attribute(self, start: int, end: int, depth: int) -> Address | None:
        """Walk one attribute; return its tensor when it is the ``value`` of a Constant."""
        name, seen, address = "", False, None
        for number, wire, a, b in fields(self.data, start, end, "an attribute"):
            if number in (1, 5, 6, 10, 11):
                expect(wire, BYTES, "an attribute")
            if number == 1:
                name = self.text(a, b, "an attribute")
            elif number == 5:
                if seen:
                    raise Hostile("An attribute holds two tensors.", "WIPER-ONNX-010", name)
                seen, address = True, self.tensor(a, b)[1]
            elif number == 10:
                self.tensor(a, b)
            elif number in (6, 11):
                self.graph(a, b, depth + 1, top=False)
        return address if name == "value" else None

    def tensor(self, start: int, end: int) -> tuple[str, Address | None]:
        name, dims, data_type, external, placed = "", list[int](), 0, dict[str, str](), 0
        payloads: dict[int, list[tuple[int, int, int]]] = {}
        for number, wire, a, b in fields(self.data, start, end, "a tensor"):
            if number == 1:
                if wire == VARINT:
                    dims.append(signed(a))
                else:
                    expect(wire, BYTES, "a tensor")
                    while a < b:
                        size, a = varint(self.data, a, b, "a tensor")
                        dims.append(signed(size))
            elif number == 2:
                expect(wire, VARINT, "a tensor")
                data_type = a
            elif number == 8:
                expect(wire, BYTES, "a tensor")
                name = self.text(a, b, "a tensor's name")
            elif number == 13:
                expect(wire, BYTES, "a tensor")
                key, value = self.entry(a, b)
                if key not in _EXTERNAL_KEYS or key in external:
                    raise Hostile(
                        f"Tensor {name!r} describes its external data by the unknown or repeated key "
                        f"{key[:60]!r}.",
                        "WIPER-ONNX-007",
                        name,
                    )
                external[key] = value
            elif number == 14:
                expect(wire, VARINT, "a tensor")
                placed = a
            elif number in _PAYLOADS:
                payloads.setdefault(number, []).append((wire, a, b))
        if placed == 1 and not payloads:
            return self.outside(name, dims, data_type, external)
        if placed or external or len(payloads) > 1 or len(payloads.get(9, ())) > 1:
            raise Hostile(f"Tensor {name!r} has more than one payload.", "WIPER-ONNX-006", name)
        return self.inside(name, dims, data_type, payloads)

    def count(self, name: str, dims: list[int]) -> int:
        if any(size < 0 for size in dims):
            raise Hostile(f"Tensor {name!r} has a negative dimension.", "WIPER-ONNX-005", name)
        return math.prod(dims)

    def inside(
        self, name: str, dims: list[int], data_type: int, payloads: dict[int, list[tuple[int, int, int]]]
    ) -> tuple[str, Address | None]:
        count = self.count(name, dims)
        dtype, bits = _TYPES.get(data_type, ("", 0))
        if not dtype:
            return name, None
        number, pieces = next(iter(payloads.items()), (9, [(BYTES, 0, 0)]))
        wire, start, end = pieces[0]
        if number == 9:
            expect(wire, BYTES, "a tensor")
            fits = end - start == (count * bits + 7) // 8
            writable = True
        elif number in _FIXED_ITEM:
            item = _FIXED_ITEM[number]
            parts = sum(b - a for _, a, b in pieces) // item
            exact = all((b - a) % item == 0 for _, a, b in pieces)
            fits = exact and parts == count * (2 if dtype.startswith("C") else 1)
            writable = len(pieces) == 1 and wire == BYTES and bits == item * 8
        else:
            fits = bits < 8 or self.varints(pieces) == count
            writable = False
        if not fits:
            raise Hostile(
                f"Tensor {name!r} of shape {dims[:8]} does not fit its payload.", "WIPER-ONNX-005", name
            )
        if dtype not in DTYPES:
            return name, None
        length = end - start
        return name, Address(name, "", start, length, dtype, tuple(dims), writable=writable)

    def varints(self, pieces: list[tuple[int, int, int]]) -> int:
        final = bytes(range(128, 256))
        return sum(
            1 if wire == VARINT else len(self.data[a:b].translate(None, final)) for wire, a, b in pieces
        )

    def outside(
        self, name: str, dims: list[int], data_type: int, external: dict[str, str]
    ) -> tuple[str, Address | None]:
        count = self.count(name, dims)
        location = _plain(external.get("location", ""), name)
        if location not in self.locations:
            self.locations.append(location)
        dtype, bits = _TYPES.get(data_type, ("", 0))
        size = (count * bits + 7) // 8
        offset = _decimal(external.get("offset", "0"), name)
        length = _decimal(external["length"], name) if "length" in external else size
        if not dtype or length != size:
            raise Hostile(
                f"Tensor {name!r} needs {size} bytes, its external data has {length}.", "WIPER-ONNX-009", name
            )
        if self.files is not None:
            if location not in self.files:
                raise Unreadable(
                    f"The ONNX file keeps weights in {location!r}, which is missing: put it beside the model."
                )
            if offset + length > len(self.files[location]):
                raise Hostile(
                    f"Tensor {name!r} lies outside the external file {location!r} (truncated?).",
                    "WIPER-ONNX-009",
                    name,
                )
        if dtype not in DTYPES:
            return name, None
        # A checksum covers the whole external file: it could not stay true.
        address = Address(
            name, location, offset, length, dtype, tuple(dims), writable="checksum" not in external
        )
        return name, address


def _plain(location: str, name: str) -> str:
    odd = set("/\\:*\0") & set(location)
    if not location or location in (".", "..") or odd or len(location) > 255 or not location.isprintable():
        raise Hostile(
            f"Tensor {name!r} asks for external data at {location[:60]!r}; only a plain file name "
            "beside the model is read.",
            "WIPER-ONNX-008",
            name,
        )
    return location


def _decimal(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Hostile(
            f"Tensor {name!r} has an external offset or length {text[:30]!r} that is no decimal number.",
            "WIPER-ONNX-007",
            name,
        )
    return int(text)


def _walk(data: bytes, files: Mapping[str, bytes] | None) -> _Walk:
    if not data:
        raise Unreadable("The file is empty.")
    if len(data) > _MAX_BYTES:
        raise Unsupported("The ONNX file is larger than 2 GiB, which protobuf does not allow.")
    walk = _Walk(data, files)
    walk.model()
    return walk


def external_locations(data: bytes) -> list[str]:
    """Names of the files that hold external tensors, in the order met; plain file names, checked.

    Raises ``Hostile`` for any other location, ``Unreadable`` for a truncated file.
    """
    return _walk(data, None).locations


def read_manifest(source: Source) -> Manifest:
    """Address every initializer and every tensor of a Constant node (under the node's output name).

    ``aliases`` are the outputs of ``Identity`` chains, and initializers that share one external range.
    ``metadata``: ``producer``, ``producer_version``, ``ir_version``, ``opset``, ``opset.<domain>``,
    ``graph``, ``nodes`` and the file's own properties. Raises ``Unreadable`` and ``Hostile`` (rules above).
    """
    walk = _walk(source.data, source.files)
    # Before IR 4 every initializer had to be an input as well.
    if walk.ir_version >= 4 and (both := walk.initializers & walk.inputs):
        name = min(both)
        raise Hostile(
            f"Initializer {name!r} is also a graph input, so a caller could replace this weight; export "
            "again with keep_initializers_as_inputs=False.",
            "WIPER-ONNX-004",
            name,
        )
    aliases: dict[str, list[str]] = {}
    for output in walk.aliases:
        origin, seen = output, {output}
        while origin in walk.aliases and walk.aliases[origin] not in seen:
            origin = walk.aliases[origin]
            seen.add(origin)
        if origin in walk.tensors and output not in walk.tensors:
            aliases.setdefault(origin, []).append(output)
    tensors = {
        name: replace(address, aliases=tuple(aliases.get(name, ()))) for name, address in walk.tensors.items()
    }
    metadata = dict(walk.properties)
    metadata.update(walk.facts)
    metadata["ir_version"] = str(walk.ir_version)
    metadata["nodes"] = str(walk.nodes)
    for domain, version in walk.opsets.items():
        metadata[f"opset.{domain}" if domain else "opset"] = str(version)
    notes = tuple(f"The graph uses operators of the domain {domain!r}." for domain in sorted(walk.domains))
    return Manifest("onnx", _tied(tensors), metadata, notes)


def _tied(tensors: dict[str, Address]) -> dict[str, Address]:
    """Name initializers of one external range as aliases of each other; overlaps of another kind stay."""
    tied = dict(tensors)
    outside = sorted(
        (address for address in tensors.values() if address.member and address.length),
        key=lambda address: (address.member, address.offset, -address.length),
    )
    group: list[Address] = []
    reach = 0
    for address in [*outside, None]:
        if address and group and group[0].member == address.member and address.offset < reach:
            group.append(address)
            reach = max(reach, address.offset + address.length)
            continue
        if len(group) > 1:
            same = len({(one.offset, one.length, one.dtype, one.shape) for one in group}) == 1
            names = [one.name for one in group]
            for one in group:
                others = tuple(name for name in names if name != one.name) if same else ()
                tied[one.name] = replace(one, aliases=(*one.aliases, *others), writable=one.writable and same)
        if address:
            group, reach = [address], address.offset + address.length
    return tied
