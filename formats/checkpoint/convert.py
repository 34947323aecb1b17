"""A checkpoint becomes a safetensors file: the tensors of its network under their names, and a word on the rest.

Standard library only. Two layouts of ``torch.save``: the zip archive of torch 1.6 and later, and the row of pickles
before it (``torch/serialization.py``).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from os.path import commonprefix
from typing import Any

from formats.checkpoint.pickles import Object, Pickle, Tensor, read_pickle
from formats.dtypes import DTYPES
from formats.errors import Unreadable, Unsupported
from formats.model import NewTensor
from formats.safetensors.pack import safetensors_file
from formats.torchscript.central import STORED, Archive, read_archive

#: Where checkpoints keep the weights of a network, the likeliest first.
PLACES = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
    "params_ema", "ema_state_dict", "ema", "model_ema", "teacher", "student", "encoder", "backbone",
)  # fmt: skip
#: What wrappers put before every name.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)*")
#: What the written file may come to, in times of the checkpoint: more is a tensor that repeats its storage.
MOST_TIMES = 4

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LITTLE = "little"


@dataclass(frozen=True)
class Converted:
    """``data``: the safetensors file. ``place``: where its tensors stood. ``left_out``: what else there was, in words.
    ``called``: what loading the pickle would have called, by name, beside what makes tensors,
    ``unknown``: what of it is not known to make values alone. ``named``: what it would have imported and not called,
    ``strange``: what of it may do more when it is imported than define things."""

    data: bytes
    tensors: int
    place: str
    left_out: tuple[str, ...]
    called: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


def is_checkpoint(data: bytes) -> bool:
    """Whether the bytes look like what ``torch.save`` writes."""
    return data.startswith(b"PK\x03\x04") or (
        data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )


def convert(data: bytes, key: str = "") -> Converted:
    """``key``: where the network's tensors stand, as ``ema.state_dict``; found where none is given.

    Raises:
        Hostile: WIPER-PKL-001, and the rules of zip archives (WIPER-TS).
        Unsupported: no tensors, or of a kind that safetensors lacks.
        Unreadable: damaged files.
    """
    if not is_checkpoint(data):
        raise Unsupported(
            "The file is no checkpoint of torch.save. torch.load may still take it for a pickle and run what it says: "
            "do not load it."
        )
    pickle, records = _archived(data) if data.startswith(b"PK") else _in_a_row(data)
    place, tensors = _network(pickle.value, key)
    # Whole wrappers: no two begin with the same letter.
    prefix = commonprefix([_WRAPPERS.match(name)[0] for name in tensors])  # type: ignore[index]  # noqa: RUF071
    tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    left = [*_left_out(pickle.value, place)]
    if prefix:
        left.append(f"the prefix {prefix!r} of every name")
    total = sum(one.elements * DTYPES[one.dtype].size for one in tensors.values())
    if total > MOST_TIMES * len(data):
        raise Unsupported("The checkpoint's tensors repeat what is stored and would fill a much larger file.")
    data = _packed(tensors, records)
    said = (tuple(names) for names in (pickle.called, pickle.unknown, pickle.named, pickle.strange))
    return Converted(data, len(tensors), place, tuple(left), *said)


def refuse_harmful(data: bytes) -> None:
    """Raises :class:`Hostile` where loading the bytes as a checkpoint would do harm that is known; anything else
    passes, also what is no checkpoint."""
    if not is_checkpoint(data) or (data.startswith(b"PK") and b"data.pkl" not in data):
        return
    with suppress(Unreadable, Unsupported):
        _archived(data) if data.startswith(b"PK") else _in_a_row(data)


def _archived(data: bytes) -> tuple[Pickle, Mapping[str, memoryview]]:
    archive = read_archive(data)
    if "data.pkl" not in archive.entries:
        raise Unsupported("The zip archive holds no data.pkl: torch.save did not write it.")
    if "constants.pkl" in archive.entries:
        raise Unsupported("The file is TorchScript, which needs no conversion.")
    if "byteorder" in archive.entries and archive.read("byteorder") != _LITTLE.encode():
        raise Unsupported("The checkpoint was written on a big-endian machine; save it anew on another.")
    return read_pickle(archive.read("data.pkl"), place="data.pkl"), _Records(archive)


class _Records(Mapping[str, memoryview]):
    """The storages of an archive by key."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def __getitem__(self, key: str) -> memoryview:
        entry = self.archive.entries[f"data/{key}"]
        if entry.method == STORED:
            return self.archive.view[entry.payload : entry.end]
        return memoryview(self.archive.read(f"data/{key}"))

    def __iter__(self) -> Iterator[str]:
        return (name[5:] for name in self.archive.entries if name.startswith("data/"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _in_a_row(data: bytes) -> tuple[Pickle, Mapping[str, memoryview]]:
    """Magic number, protocol, sizes of the machine, the value, the keys of its storages; then these, counted."""
    found, end = [], 0
    for number in range(5):
        found.append(read_pickle(data, end, place="the checkpoint"))
        end = found[-1].end
        if number == 0 and found[0].value != _MAGIC:
            raise Unsupported(
                "The file is a pickle that torch.save did not write; save its tensors as safetensors."
            )
    protocol, machine, value, keys = (one.value for one in found[1:])
    if protocol != _PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Unsupported("The checkpoint was written by another protocol, or on a big-endian machine.")
    sizes = {storage.key: DTYPES[storage.dtype].size for storage in _storages(value)}
    records: dict[str, memoryview] = {}
    view = memoryview(data)
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or end + 8 > len(data):
            raise Unreadable("The checkpoint ends before its tensors; get a whole copy.")
        (count,) = struct.unpack_from("<q", data, end)
        size = count * sizes.get(key, 1)
        if count < 0 or end + 8 + size > len(data):
            raise Unreadable("The checkpoint ends before its tensors; get a whole copy.")
        records[key] = view[end + 8 : end + 8 + size]
        end += 8 + size
    said = [(one.called, one.unknown, one.named, one.strange) for one in found]
    names = ({name: None for one in kind for name in one} for kind in zip(*said, strict=True))
    return Pickle(value, end, *names), records


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Everything below a value with its dotted path, each object once."""
    seen: set[int] = set()
    pending = [("", value)]
    while pending:
        path, item = pending.pop()
        if id(item) in seen:
            continue
        if isinstance(item, dict | list | tuple | Object):
            seen.add(id(item))
        yield path, item
        dot = f"{path}." if path else ""
        children: list[tuple[str, Any]] = []
        if isinstance(item, dict):
            children = [(f"{dot}{key}", child) for key, child in item.items()]
        elif isinstance(item, list | tuple):
            children = [(f"{dot}{number}", child) for number, child in enumerate(item)]
        elif isinstance(item, Object):
            children = [(path, item.state), (path, item.arguments)]
        pending += [(name[:1000], child) for name, child in reversed(children)]


def _storages(value: Any) -> Iterator[Any]:
    return (item.storage for _, item in _walk(value) if isinstance(item, Tensor))


def _network(value: Any, key: str) -> tuple[str, dict[str, Tensor]]:
    """Where a network's tensors stand, and they by name."""
    if key:
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not (found := _tensors(value)):
            raise Unsupported(f"There are no tensors under {key[:100]!r} in the checkpoint.")
        return key, found
    if found := _tensors(value):
        return "", found
    for place in PLACES if isinstance(value, dict) else ():
        if found := _tensors(value.get(place)):
            return place, found
        for inner in PLACES if isinstance(value.get(place), dict) else ():
            if found := _tensors(value[place].get(inner)):
                return f"{place}.{inner}", found
    places = [path for path, item in _walk(value) if isinstance(item, dict | Object) and _tensors(item)]
    if not places:
        raise Unsupported("There are no tensors in the checkpoint.")
    shown = ", ".join(repr(place[:60]) for place in places[:5])
    raise Unsupported(
        f"None of the usual places holds the network's tensors; they stand under {shown}: use --key."
    )


def _tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of a module that was pickled whole; empty for anything else."""
    if isinstance(value, dict):
        return {key: one for key, one in value.items() if isinstance(key, str) and isinstance(one, Tensor)}
    found: dict[str, Tensor] = {}
    pending: list[tuple[str, Any, int]] = [("", value, 0)]
    seen: set[int] = set()
    while pending:
        prefix, module, depth = pending.pop()
        state = module.state if isinstance(module, Object) else None
        if not isinstance(state, dict) or depth > 200 or id(module) in seen:
            continue
        seen.add(id(module))
        passing = state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, one in (state[kind] if isinstance(state.get(kind), dict) else {}).items():
                lasting = kind == "_parameters" or not isinstance(passing, list) or name not in passing
                if isinstance(one, Tensor) and lasting:
                    found[f"{prefix}{name}"] = one
        below = state["_modules"] if isinstance(state.get("_modules"), dict) else {}
        pending += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(below.items())]
    return found


def _left_out(value: Any, place: str) -> Iterator[str]:
    """What stands beside the network, one phrase a key."""
    parts = place.split(".") if place else []
    for depth, part in enumerate([*parts, None]):
        for key, one in value.items() if isinstance(value, dict) else ():
            if key != part and not (part is None and isinstance(one, Tensor)):
                yield ".".join([*parts[:depth], f"{key}"[:60]])
        if part is not None:
            value = value[part]


def _packed(tensors: Mapping[str, Tensor], records: Mapping[str, memoryview]) -> bytes:
    """A safetensors file, its tensors in the library's order: the widest elements first."""
    found = {}
    for name in sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].size, name)):
        tensor = tensors[name]
        record = records.get(tensor.storage.key)
        if record is None or len(record) < tensor.storage.count * DTYPES[tensor.storage.dtype].size:
            raise Unreadable("The checkpoint lacks the bytes of a tensor; get a whole copy.")
        found[name] = NewTensor(tensor.dtype, tensor.size, bytes(_contiguous(tensor, record)))
    return safetensors_file(found, {"format": "pt"})


def _contiguous(tensor: Tensor, record: memoryview) -> bytes | memoryview:
    """The elements in row-major order."""
    width = DTYPES[tensor.dtype].size
    if 0 in tensor.size:
        return b""
    dense, step = True, 1
    for size, stride in zip(reversed(tensor.size), reversed(tensor.stride), strict=True):
        dense &= size == 1 or stride == step
        step *= size
    begin = tensor.offset * width
    if dense:
        return record[begin : begin + step * width]
    # In runs along the longest axis, as plain integers of the same width.
    source, target = _integers(record, width), _integers(memoryview(bytearray(step * width)), width)
    steps = [math.prod(tensor.size[axis + 1 :]) for axis in range(len(tensor.size))]
    longest = max(range(len(tensor.size)), key=lambda axis: tensor.size[axis])
    count, stride, step = tensor.size[longest], tensor.stride[longest], steps[longest]
    others = [axis for axis in range(len(tensor.size)) if axis != longest]
    for place in product(*(range(tensor.size[axis]) for axis in others)):
        a = tensor.offset + sum(i * tensor.stride[axis] for i, axis in zip(place, others, strict=True))
        b = sum(i * steps[axis] for i, axis in zip(place, others, strict=True))
        run = slice(a, a + (count - 1) * stride + 1, stride) if stride else slice(a, a + 1)
        for at in range(1 if stride else count):  # of an expanded tensor the same element again and again
            target[b + at * step : b + (count - 1) * step + 1 if stride else b + at * step + 1 : step] = (
                source[run]
            )
    return target.cast("B").tobytes()


def _integers(view: memoryview, width: int) -> memoryview:
    whole = view[: len(view) // width * width]
    match width:
        case 1:
            return whole
        case 2:
            return whole.cast("H")
        case 4:
            return whole.cast("I")
    return whole.cast("Q")
