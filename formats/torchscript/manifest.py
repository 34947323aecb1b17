"""A TorchScript archive from its bytes alone: layout, tensors, and the checks before torch may see it.

Standard library only; nothing is executed. Layout of the members below the archive's folder: ``data.pkl``
(module tree) with records ``data/N``, ``constants.pkl`` with ``constants/N``, ``code/**.py``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported
from formats.model import Address, Manifest, Source
from formats.ranges import is_dense
from formats.torchscript.central import STORED, Archive, read_archive
from formats.torchscript.pickles import Instance, Stored, named_tensors, read_pickle

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
}

_MEMBER = re.compile(
    r"data\.pkl|constants\.pkl|traced_inputs\.pkl|(data|constants|traced_inputs)/\d{1,9}"
    r"|code/[\w./-]+\.py(\.debug_pkl)?|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/[a-z_]+|extra/.+"
)
_MOBILE = ("bytecode.pkl", "mobile_debug_handles.pkl", "model.json")
_MAX_CODE = 1 << 20
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
    defined = _scan_code(archive)
    root = read_pickle(archive.read("data.pkl"), "data.pkl", defined)
    constants = read_pickle(archive.read("constants.pkl"), "constants.pkl", defined)
    if not isinstance(root, Instance) or not isinstance(constants, tuple):
        raise Hostile("data.pkl holds no module.", "WIPER-TS-010", "data.pkl")
    named = dict(named_tensors(root))
    lifted = {f"constants.c{name}": tensor for name, tensor in named_tensors(constants)}
    if not named.keys().isdisjoint(lifted):
        raise Unsupported("An attribute of the network is called like a constant; rename it and save again.")
    addresses = {name: _address(archive, "data", name, tensor) for name, tensor in named.items()}
    addresses |= {name: _address(archive, "constants", name, tensor) for name, tensor in lifted.items()}
    _check_records(archive, [*named.values()], [*lifted.values()])
    tensors, notes = _tie(addresses)
    return Layout(archive, tensors, root.name, _example(archive, defined), notes)


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
    version = next((archive.read(name) for name in ("version", ".data/version") if name in names), b"")
    if not version.strip().isdigit() or int(version) not in _VERSIONS:
        raise Unsupported(
            f"The archive has format version {version[:20]!r}; 1 to {_VERSIONS[-1]} can be read."
        )


def _scan_code(archive: Archive) -> Callable[[str], bool]:
    """Refuse code that runs on loading; returns whether the code defines a class (``__torch__.m.Net``)."""
    classes = set()
    for name, entry in archive.entries.items():
        if not name.startswith("code/") or not name.endswith(".py"):
            continue
        if entry.size > _MAX_CODE:
            raise Hostile(f"{name} is larger than {_MAX_CODE} bytes.", "WIPER-TS-008", name)
        text = archive.read(name)
        if re.search(rb"__[sg]etstate__", text):
            raise Hostile(
                f"{name} defines code that runs while the file is being loaded (__setstate__).",
                "WIPER-TS-014", name,
            )  # fmt: skip
        module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        classes |= {
            f"{module}.{found.decode()}" for found in re.findall(rb"^class (\w+)\(", text, re.MULTILINE)
        }
    return classes.__contains__


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


def _check_records(archive: Archive, *groups: list[Stored]) -> None:
    """Tensors of one record agree on it, and no record lies there unused."""
    for folder, tensors in zip(("data", "constants"), groups, strict=True):
        facts: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for tensor in tensors:
            facts[tensor.key].add((tensor.dtype, tensor.count))
        for key, seen in facts.items():
            if len(seen) > 1:
                raise Hostile(
                    f"Tensors disagree on record {folder}/{key}.", "WIPER-TS-016", f"{folder}/{key}"
                )
        for name in archive.entries:
            if name.startswith(f"{folder}/") and name.removeprefix(f"{folder}/") not in facts:
                raise Hostile(f"Record {name} belongs to no tensor.", "WIPER-TS-015", name)


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


def _example(archive: Archive, defined: Callable[[str], bool]) -> tuple[int, ...] | None:
    """Shape of the first tensor that the network was traced with."""
    if "traced_inputs.pkl" not in archive.entries:
        return None
    recorded = read_pickle(archive.read("traced_inputs.pkl"), "traced_inputs.pkl", defined)
    return next((tensor.size for _, tensor in named_tensors(recorded)), None)
