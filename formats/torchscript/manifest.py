"""A TorchScript archive from its bytes alone: layout, tensors, and the checks before torch may see it.

Standard library only; nothing is executed. Layout of the members below the archive's folder: ``data.pkl``
(module tree) with records ``data/N``, ``constants.pkl`` with ``constants/N``, ``code/**.py``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported
from formats.model import Address, Manifest, Source
from formats.ranges import is_dense
from formats.torchscript.central import STORED, Archive, read_archive
from formats.torchscript.code import read_code
from formats.torchscript.operators import check_operators
from formats.torchscript.pickles import MAX_PICKLE, Instance, Stored, named_tensors, read_pickle
from formats.torchscript.words import MAX_CODE, Class

#: What no honest exporter does, one id each; ids are stable and never reused.
RULES: Mapping[str, str] = {
    "WIPER-TS-001": "Bytes stand before, between or after the members of the archive.",
    "WIPER-TS-002": "The archive carries a comment, spans disks, or has more than one directory.",
    "WIPER-TS-003": "A member's own header contradicts the directory.",
    "WIPER-TS-004": "Two members have the same name, capitals aside; loaders disagree on which one counts.",
    "WIPER-TS-005": "A member's name is not a plain relative path in the archive's one folder.",
    "WIPER-TS-006": "A member is encrypted or compressed by a method other than deflate.",
    "WIPER-TS-007": "A member's content does not have the checksum that the directory gives.",
    "WIPER-TS-008": "A member unpacks to more than the limits allow.",
    "WIPER-TS-009": "The archive holds a member that the format does not know.",
    "WIPER-TS-010": "A pickle holds an instruction that the format does not use, or is malformed.",
    "WIPER-TS-011": "A pickle names a function or class that the format does not use.",
    "WIPER-TS-012": "A tensor's record is missing, or not as long as its element count says.",
    "WIPER-TS-013": "A tensor reaches outside its record.",
    "WIPER-TS-014": "The code defines __setstate__ or __getstate__, which run during loading.",
    "WIPER-TS-015": "A record belongs to no tensor.",
    "WIPER-TS-016": "Tensors that share a record disagree on its type or length.",
    "WIPER-TS-017": "A member with content is marked as a folder; loaders disagree on what it holds.",
    "WIPER-TS-018": "Two tensors are known by one dotted path, or the archive gives its version twice.",
    "WIPER-TS-019": "The code has a default argument or a value of a class that is computed during loading.",
    "WIPER-TS-020": "The code uses an operator that reaches files, memory or processes, or hides which it uses.",
    "WIPER-TS-021": "The code defines a name twice; loaders take the last.",
    "WIPER-TS-022": "The code is made to exhaust time or memory: too long, nested, repeated, or with giant sizes.",
}

_MEMBER = re.compile(
    r"data\.pkl|constants\.pkl|traced_inputs\.pkl|(data|constants|traced_inputs)/\d{1,9}"
    r"|code/[\w./-]+\.py(\.debug_pkl)?|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/[a-z_]+|extra/.+"
)
_MOBILE = ("bytecode.pkl", "mobile_debug_handles.pkl", "model.json")
_MAX_EXPANDED = 1 << 30
_VERSIONS = range(1, 11)


@dataclass(frozen=True)
class Layout:
    """A checked archive: its members, where its tensors lie, and what can be said of the network.

    ``root_class``: class of the saved module (``__torch__.torchvision.models.resnet.ResNet``).
    ``example``: shape of the first input that was traced, ``None`` for scripted and frozen networks.
    """

    archive: Archive
    tensors: Mapping[str, Address]
    root_class: str
    example: tuple[int, ...] | None
    notes: tuple[str, ...]


def external_locations(data: bytes) -> tuple[str, ...]:
    """None: the archive holds all its tensors."""
    return ()


def read_manifest(source: Source) -> Manifest:
    """The tensors of a TorchScript file by their dotted names, constants as ``constants.cN``.

    Raises:
        Unreadable: truncated. Unsupported: quantised, mobile, big-endian, compressed tensors, newer format.
        Hostile: any of :data:`RULES`.
    """
    layout = read_layout(source.data)
    metadata = {"root_class": layout.root_class}
    if layout.example:
        metadata["example_shape"] = ",".join(map(str, layout.example))
    return Manifest("torchscript", layout.tensors, metadata, layout.notes)


def read_layout(data: bytes) -> Layout:
    """Check the bytes of an archive and find its tensors; raises what :func:`read_manifest` raises."""
    archive = read_archive(data)
    _check_members(archive)
    code = read_code(code_files(archive))
    check_operators(code.used)
    root = read_pickle(_pickle(archive, "data"), "data.pkl", code.classes)
    constants = read_pickle(_pickle(archive, "constants"), "constants.pkl", code.classes)
    if not isinstance(root, Instance) or not isinstance(constants, tuple):
        raise Hostile("data.pkl holds no module.", "WIPER-TS-010", "data.pkl")
    if not all(isinstance(one, Stored) for one in constants):  # the reader of the code relies on it
        raise Unsupported("A constant of the code (constants.pkl) is no tensor.")
    named = _named(named_tensors(root))
    lifted = _named((f"constants.c{name}", tensor) for name, tensor in named_tensors(constants))
    if not named.keys().isdisjoint(lifted):
        raise Unsupported("An attribute of the network is called like a constant; rename it and save again.")
    addresses = _addresses(archive, "data", named) | _addresses(archive, "constants", lifted)
    tensors, notes = _tie(addresses)
    return Layout(archive, tensors, root.name, _example(archive, code.classes), notes)


def _pickle(archive: Archive, name: str) -> bytes:
    member = f"{name}.pkl"
    if archive.entries[member].size > MAX_PICKLE:
        raise Hostile(f"{member} is larger than {MAX_PICKLE} bytes.", "WIPER-TS-010", member)
    return archive.read(member)


def _named(found: Iterable[tuple[str, Stored]]) -> dict[str, Stored]:
    """By dotted path. Under "a.b" there may be an attribute b of a, and one of the root that is called so."""
    named: dict[str, Stored] = {}
    for name, tensor in found:
        if name in named:
            raise Hostile(f"Two tensors are called {name!r}.", "WIPER-TS-018", name)
        named[name] = tensor
    return named


def _check_members(archive: Archive) -> None:
    names = archive.entries.keys()
    for name in _MOBILE:
        if name in names:
            raise Unsupported(f"The archive is for the mobile runtime ({name}); save it with torch.jit.save.")
    if not ({"data.pkl", "constants.pkl"} <= names and any(name.startswith("code/") for name in names)):
        raise Unsupported("The archive holds no TorchScript code; save the network with torch.jit.save.")
    for name, entry in archive.entries.items():
        if not _MEMBER.fullmatch(name):
            raise Hostile(f"TorchScript knows no member {name!r}.", "WIPER-TS-009", name)
        if entry.method != STORED and name.startswith(("data/", "constants/")):
            raise Unsupported(
                f"Tensor record {name!r} is compressed; save the file again with torch.jit.save."
            )
    if "byteorder" in names and archive.read("byteorder") != b"little":
        raise Unsupported("The archive was saved on a big-endian machine.")
    versions = [name for name in ("version", ".data/version") if name in names]
    if len(versions) > 1:
        raise Hostile("The archive gives its version twice.", "WIPER-TS-018", "version")
    version = archive.read(versions[0])[:20] if versions else b""
    if not re.fullmatch(rb"\d{1,2}\n?", version) or int(version) not in _VERSIONS:
        raise Unsupported(f"The archive has format version {version!r}; 1 to {_VERSIONS[-1]} can be read.")


def code_files(archive: Archive) -> dict[str, bytes]:
    """The code of an archive by member."""
    names = [name for name in archive.entries if name.startswith("code/") and name.endswith(".py")]
    if sum(archive.entries[name].size for name in names) > MAX_CODE:
        raise Hostile(f"The code is longer than {MAX_CODE} bytes.", "WIPER-TS-022", "code")
    return {name: archive.read(name) for name in names}


def _address(archive: Archive, folder: str, name: str, tensor: Stored) -> Address:
    """Hold one tensor against its record: torch 2.13 believes the counts in the pickle, and reads past it."""
    member = f"{folder}/{tensor.key}"
    width = DTYPES[tensor.dtype].size
    entry = archive.entries.get(member)
    if entry is None or entry.size != tensor.count * width:
        size = "is missing" if entry is None else f"has {entry.size} bytes, not {tensor.count * width}"
        raise Hostile(f"Record {member} of tensor {name!r} {size}.", "WIPER-TS-012", member)
    if tensor.last >= tensor.count or tensor.offset > tensor.count:
        raise Hostile(f"Tensor {name!r} reaches outside its record {member}.", "WIPER-TS-013", member)
    length = (tensor.last + 1 - tensor.offset) * width
    if math.prod(tensor.size) * width > max(_MAX_EXPANDED, entry.size):
        raise Unsupported(f"Tensor {name!r} repeats its elements to more than {_MAX_EXPANDED} bytes.")
    stride = None if is_dense(tensor.size, tensor.stride) else tensor.stride
    return Address(name, member, tensor.offset * width, length, tensor.dtype, tensor.size, stride)


def _addresses(archive: Archive, folder: str, tensors: Mapping[str, Stored]) -> dict[str, Address]:
    """Where each tensor lies; tensors of one record agree on it, and no record lies there unused."""
    facts: dict[str, tuple[str, int]] = {}
    found = {}
    for name, tensor in tensors.items():
        found[name] = _address(archive, folder, name, tensor)
        member = found[name].member
        if facts.setdefault(member, (tensor.dtype, tensor.count)) != (tensor.dtype, tensor.count):
            raise Hostile(f"Tensors disagree on record {member}.", "WIPER-TS-016", member)
    for name in archive.entries:
        if name.startswith(f"{folder}/") and name not in facts:
            raise Hostile(f"Record {name} belongs to no tensor.", "WIPER-TS-015", name)
    return found


def covers(tensors: Mapping[str, Address]) -> dict[str, str]:
    """For each tensor the one whose change changes it: itself, the first of its names, or one that contains it.

    "" for tensors that overlap in another way or repeat their elements: they cannot be written.
    A frozen network may hold slices of a weight beside the weight; in the file they are the same elements.
    """
    order = {name: i for i, name in enumerate(tensors)}
    members: dict[str, list[Address]] = defaultdict(list)
    for address in tensors.values():
        members[address.member].append(address)
    found: dict[str, str] = {}
    for group in members.values():
        outer: Address | None = None
        for a in sorted(group, key=lambda a: (a.offset, -a.length, a.stride is not None, order[a.name])):
            if a.stride is not None and any(n > 1 and s == 0 for n, s in zip(a.shape, a.stride, strict=True)):
                found[a.name] = ""
            elif outer is None or a.offset >= outer.offset + outer.length:
                outer, found[a.name] = a, a.name
            elif _same(a, outer) or (
                outer.stride is None and a.offset + a.length <= outer.offset + outer.length
            ):
                found[a.name] = found[outer.name]
            else:
                found[a.name] = found[outer.name] = ""
                outer = max(outer, a, key=lambda a: a.offset + a.length)
    return found


def _same(a: Address, b: Address) -> bool:
    """Whether two names of one record mean the same elements in the same shape."""
    return _elements(a) == _elements(b)


def _elements(a: Address) -> tuple[Any, ...]:
    return a.member, a.offset, a.dtype, a.shape, a.stride


def _tie(addresses: Mapping[str, Address]) -> tuple[dict[str, Address], tuple[str, ...]]:
    """Name the aliases of each tensor; what cannot be written on its own is marked."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, a in addresses.items():
        groups[_elements(a)].append(name)
    tied = [names for names in groups.values() if len(names) > 1]
    aliases = {name: tuple(other for other in names if other != name) for names in tied for name in names}
    cover = covers(addresses)
    tensors = {
        name: replace(
            a,
            aliases=aliases.get(name, ()),
            writable=cover[name] != "" and _same(a, addresses[cover[name]]),
        )
        for name, a in addresses.items()
    }
    notes = [f"{' and '.join(names[:4])} are one stored tensor and change together" for names in tied]
    overlapping = [name for name, outer in cover.items() if outer == ""]
    if overlapping:
        notes.append(f"{', '.join(overlapping[:4])} overlap in the file and cannot be changed")
    return tensors, tuple(notes)


def _example(archive: Archive, classes: Mapping[str, Class]) -> tuple[int, ...] | None:
    """Shape of the first tensor that the network was traced with; torch writes empty records of these."""
    if "traced_inputs.pkl" not in archive.entries:
        return None
    recorded = read_pickle(_pickle(archive, "traced_inputs"), "traced_inputs.pkl", classes)
    return next((tensor.size for _, tensor in named_tensors(recorded)), None)
