"""A strict reader of safetensors files, by the format's specification and a little narrower.

``u64 N`` (little endian), ``N`` bytes of JSON, then the data. The reference library accepts duplicate keys,
unknown fields, leading white space and unprintable names; no honest writer makes them, so here they are
:class:`Hostile`. Truncation is :class:`Unreadable`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from formats.dtypes import BITS, DTYPES
from formats.errors import Hostile, Unreadable
from formats.model import Address, Manifest, Source
from formats.safetensors.shards import is_index, require_match, weight_map

#: What no honest writer makes, one id each; ids are stable and never reused.
RULES: Mapping[str, str] = {
    "WIPER-ST-001": "The header is longer than 16 MiB.",
    "WIPER-ST-002": "The header is not one JSON object of UTF-8 text and integers, from the first byte on.",
    "WIPER-ST-003": "The header has the same key twice; readers disagree on which one counts.",
    "WIPER-ST-004": "The metadata is no mapping of strings to strings.",
    "WIPER-ST-005": "A tensor's entry has missing, unknown or wrongly typed fields.",
    "WIPER-ST-006": "A tensor has an unknown dtype.",
    "WIPER-ST-007": "A tensor has a negative size, or 2^40 elements or more.",
    "WIPER-ST-008": "The byte range of a tensor does not fit its shape and dtype.",
    "WIPER-ST-009": "Tensors overlap, or bytes of the data belong to no tensor.",
    "WIPER-ST-010": "A tensor's name is empty, too long, not printable ASCII, or a path that leads out of a folder.",
    "WIPER-ST-011": "A truth value is neither 0 nor 1.",
}

MAX_HEADER = 16 << 20
MAX_ELEMENTS = 1 << 40
MAX_NAME, MAX_DIMENSIONS = 512, 64
#: Longest entry of a tensor, in characters.
MAX_ENTRY = 4096


def read_manifest(source: Source) -> Manifest:
    """The addresses of all tensors of a safetensors file, in order of their offsets, or of an index, shard by shard.

    Raises :class:`Unreadable` for a truncated file, :class:`Hostile` for what no honest writer makes.
    """
    tensors, metadata = _sharded(source) if is_index(source.data) else read_header(source.data)
    unaligned = sum(a.offset % a.item > 0 for a in tensors)
    notes = [f"{unaligned} tensors start at an unaligned offset"] if unaligned else []
    notes += [
        f"stored as {dtype}, which is not opened here"
        for dtype in sorted({a.dtype for a in tensors} - {*DTYPES})
    ]
    return Manifest("safetensors", {a.name: a for a in tensors}, metadata, tuple(notes))


def external_locations(data: bytes) -> tuple[str, ...]:
    """The shards of an index, in its order; a file of tensors holds all its own."""
    return tuple(dict.fromkeys(weight_map(data).values())) if is_index(data) else ()


def _sharded(source: Source) -> tuple[list[Address], dict[str, str]]:
    """The tensors of all shards, each checked as a file of its own, and the metadata in which they do not differ."""
    index = weight_map(source.data)
    tensors: list[Address] = []
    metadata: list[dict[str, str]] = []
    held: dict[str, list[str]] = {}
    for file in dict.fromkeys(index.values()):
        if file not in source.files:
            raise Unreadable(f"The shard {file!r} is missing; put it beside the index.")
        found, told = read_header(source.files[file])
        tensors += [replace(one, member=file) for one in found]
        metadata.append(told)
        held[file] = [one.name for one in found]
    require_match(index, held)
    return tensors, {
        key: value for key, value in metadata[0].items() if all(m.get(key) == value for m in metadata)
    }


def read_header(data: bytes) -> tuple[list[Address], dict[str, str]]:
    """(addresses sorted by offset, metadata) of the bytes of a safetensors file."""
    if len(data) < 10:
        raise Unreadable("The file ends inside its safetensors header; it is truncated.")
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER:
        raise _hostile("001", f"The safetensors header claims {length} bytes; the limit is {MAX_HEADER}")
    if 8 + length > len(data):
        raise Unreadable("The file ends inside its safetensors header; it is truncated.")
    try:
        tensors, metadata = _Header(data[8 : 8 + length].decode()).read(8 + length)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _hostile("002", "The header is no well-formed JSON") from error
    tensors.sort(key=lambda a: (a.offset, a.length))
    _check_ranges(tensors, 8 + length, len(data))
    for a in tensors:
        if a.dtype == "BOOL" and data[a.offset : a.offset + a.length].strip(b"\0\1"):
            raise _hostile("011", f"Tensor {a.name!r} holds a truth value that is neither 0 nor 1", a.name)
    return tensors, metadata


def _hostile(rule: str, message: str, place: str = "") -> Hostile:
    return Hostile(f"{message}; no honest writer makes such a safetensors file.", f"WIPER-ST-{rule}", place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _repeated(name)
        found[name] = value
    return found


def _repeated(key: str) -> Hostile:
    return _hostile("003", f"The key {key[:80]!r} appears twice", ascii(key[:MAX_NAME]))


def _integer(text: str) -> int:
    if text == "-0" or len(text) > 20:
        raise _no_integer(text)
    return int(text)


def _no_integer(text: str) -> NoReturn:
    raise _hostile("002", f"The header holds the number {text[:40]!r}, which is no integer of 64 bits")


class _Header:
    """The text of a header, read from its beginning and entry by entry: what no writer makes is met before it fills
    the memory."""

    _decode = json.JSONDecoder(
        object_pairs_hook=_unique, parse_int=_integer, parse_float=_no_integer, parse_constant=_no_integer
    ).raw_decode
    _space = re.compile(r"[ \t\r\n]*").match

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def read(self, start: int) -> tuple[list[Address], dict[str, str]]:
        """The tensors as they are listed, and the metadata. The data start at byte ``start`` of the file."""
        tensors: list[Address] = []
        metadata: dict[str, str] = {}
        if not self._text.startswith("{"):
            raise _hostile("002", "The header does not begin with a brace")
        for name in self._keys():
            if name == "__metadata__":
                metadata = self._metadata()
            else:
                tensors.append(_address(name, self._entry(), start))
        if self._text[self._at :].strip(" "):
            raise _hostile("002", "Something stands behind the header's last brace")
        return tensors, metadata

    def _next(self, mark: str) -> bool:
        """Whether ``mark`` is what comes next, behind white space."""
        self._at = self._space(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text.startswith(mark, self._at)

    def _pass(self, mark: str) -> None:
        if not self._next(mark):
            raise _hostile("002", f"The header lacks a {mark} at character {self._at}")
        self._at += len(mark)

    def _string(self) -> str:
        self._pass('"')
        found, self._at = self._decode(self._text, self._at - 1)
        return str(found)

    def _keys(self) -> Iterator[str]:
        """The keys of an object; the value of each is to be read before the next is asked for."""
        seen: set[str] = set()
        self._pass("{")
        while not self._next("}"):
            if seen:
                self._pass(",")
            key = self._string()
            if key in seen:
                raise _repeated(key)
            seen.add(key)
            self._pass(":")
            yield key
        self._pass("}")

    def _metadata(self) -> dict[str, str]:
        found = {}
        wrong = _hostile("004", "The metadata is no mapping of strings to strings", "__metadata__")
        if not self._next("{"):
            raise wrong
        for key in self._keys():
            if not self._next('"'):
                raise wrong
            found[key] = self._string()
        if not all(_text(one) for item in found.items() for one in item):
            raise wrong
        return found

    def _entry(self) -> Any:
        """An object without another in it; ``None`` for anything else."""
        if not self._next("{"):
            return None
        begin, end = self._at, self._text.find("}", self._at, self._at + MAX_ENTRY)
        entry, self._at = self._decode(self._text[begin : end + 1]) if end >= 0 else (None, 0)
        self._at += begin
        return entry


def _address(name: str, entry: Any, start: int) -> Address:
    if not 0 < len(name) <= MAX_NAME or not name.isascii() or not name.isprintable() or _leads_away(name):
        raise _hostile("010", f"A tensor has the unsafe name {name[:80]!r}", ascii(name[:MAX_NAME]))
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _hostile("005", f"The entry of tensor {name!r} has missing or unknown fields", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise _hostile("005", f"The entry of tensor {name!r} has fields of the wrong type", name)
    if dtype not in BITS:
        raise _hostile("006", f"Tensor {name!r} has the unknown dtype {dtype[:40]!r}", name)
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size < MAX_ELEMENTS for size in shape):
        raise _hostile("007", f"Tensor {name!r} has an impossible shape", name)
    elements = 1
    for size in shape:
        elements *= size
        if elements >= MAX_ELEMENTS:
            raise _hostile("007", f"Tensor {name!r} has an impossible number of elements", name)
    begin, end = offsets
    if not 0 <= begin <= end < 1 << 62 or 8 * (end - begin) != elements * BITS[dtype]:
        raise _hostile("008", f"The byte range of tensor {name!r} does not fit its shape", name)
    return Address(name, "", start + begin, end - begin, dtype, tuple(shape), writable=dtype in DTYPES)


def _leads_away(name: str) -> bool:
    """Keras' names have slashes; as the name of a file none may lead out of a folder."""
    return "\\" in name or name.startswith("/") or ".." in name.split("/")


def _text(value: Any) -> bool:
    """A string without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _check_ranges(tensors: Sequence[Address], start: int, size: int) -> None:
    """Sorted by offset, the ranges cover the data from ``start`` to ``size`` without overlap or gap."""
    position = start
    for a in tensors:
        if a.offset != position:
            word = "overlaps another" if a.offset < position else "leaves a gap before it"
            raise _hostile("009", f"Tensor {a.name!r} {word}", a.name)
        position += a.length
    if position > size:
        raise Unreadable(
            f"The file is truncated: its tensors need {position} bytes and it has {size}; get a whole copy."
        )
    if position < size:
        raise _hostile("009", f"{size - position} bytes at the end of the file belong to no tensor")
