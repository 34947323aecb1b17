"""A ZIP reader that accepts one reading of the bytes only: what torch, Python and others would agree on.

Standard library only. Layout: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.4; torch always writes the Zip64 end
record, flags 0x0808, and local headers whose CRC and sizes are 0 (the truth follows the payload).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from formats.errors import Hostile, Unreadable

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")

_FLAG_DESCRIPTOR, _FLAG_UTF8, _FOLDER = 0x0008, 0x0800, 0x10
STORED, DEFLATED = 0, 8
#: Version of the format, in tenths, that zipfile reads at most; torch looks at none.
_NEWEST = 63

#: Extra fields of headers that change no reading: Zip64, torch's padding, times and owners. Others rename members.
_ZIP64, _EXTRA = 1, frozenset({1, 0x4246, 0x5455, 0x7875})

MAX_ENTRIES = 100_000
#: Bytes of a name; torch reads no more than 511.
_MAX_NAME = 500
MAX_RATIO = 200
#: Bytes that all deflated members (code) may unpack to.
MAX_INFLATED = 256 << 20


@dataclass(frozen=True)
class Entry:
    """One member. Offsets are absolute, in bytes; ``descriptor`` is ``None`` where no descriptor follows."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    local: int
    payload: int
    descriptor: int | None
    central: int

    @property
    def end(self) -> int:
        """One past the last byte of the payload."""
        return self.payload + self.packed


@dataclass(frozen=True)
class Archive:
    """The members of a checked archive by their name below ``root`` (without the folder itself)."""

    data: bytes
    root: str
    entries: Mapping[str, Entry]

    @cached_property
    def view(self) -> memoryview:
        """The bytes of the file, not copied when sliced."""
        return memoryview(self.data)

    def read(self, name: str) -> bytes:
        """Unpacked content of one member; its length and CRC were checked when the archive was read."""
        entry = self.entries[name]
        raw = self.view[entry.payload : entry.end]
        return bytes(raw) if entry.method == STORED else _inflate(raw, entry)


def read_archive(data: bytes) -> Archive:
    """Read and check every member of a ZIP file.

    Raises:
        Unreadable: the end is missing (truncated file) or this is no ZIP file at all.
        Hostile: rules WIPER-TS-001 to WIPER-TS-008, and WIPER-TS-017.
    """
    count, directory, stop = find_directory(data)
    entries = _read_directory(data, count, directory, stop)
    _check_coverage(data, entries, directory)
    _check_content(data, entries)
    root, below = _split_names(entries)
    return Archive(data, root, dict(zip(below, entries, strict=True)))


def find_directory(data: bytes) -> tuple[int, int, int]:
    """Number of entries, first byte of the central directory, one past its last byte.

    Raises Unreadable, Hostile (WIPER-TS-001, 002, 008).
    """
    start = len(data) - _END.size
    if start < 0 or data[start : start + 4] != b"PK\5\6":
        if start > 0 and data[:2] == b"PK" and data.rfind(b"PK\5\6", max(0, start - 0xFFFF), start + 3) >= 0:
            raise Hostile("The archive does not end where its directory ends.", "WIPER-TS-002")
        raise Unreadable("The archive has no end: the file was cut off, or is no archive; copy it again.")
    if data[:4] != b"PK\3\4":
        raise Hostile("Bytes stand before the archive.", "WIPER-TS-001")
    _, disk, first_disk, here, total, size, offset, comment = _END.unpack_from(data, start)
    stop = start
    locator = start - _END64_LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        _, disk64, record, disks = _END64_LOCATOR.unpack_from(data, locator)
        if record != locator - _END64.size or data[record : record + 4] != b"PK\6\6" or disk64 or disks > 1:
            raise Hostile("The archive's two end records contradict each other.", "WIPER-TS-002")
        _, length, _, _, *rest = _END64.unpack_from(data, record)
        wide = tuple(rest)
        narrow = (disk, first_disk, here, total, size, offset)
        full = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        agree = all(n in (w, f) for n, w, f in zip(narrow, wide, full, strict=True))
        if length != _END64.size - 12 or not agree:
            raise Hostile("The archive's two end records contradict each other.", "WIPER-TS-002")
        disk, first_disk, here, total, size, offset = wide
        stop = record
    if disk or first_disk or here != total or comment:
        raise Hostile("The archive has a comment or spans several disks.", "WIPER-TS-002")
    if offset + size != stop:
        raise Hostile("Bytes stand before the archive or after its directory.", "WIPER-TS-001")
    if not 0 < total <= MAX_ENTRIES:
        raise Hostile(f"The archive lists {total} members; 1 to {MAX_ENTRIES} are allowed.", "WIPER-TS-008")
    return total, offset, stop


def _read_directory(data: bytes, count: int, position: int, stop: int) -> list[Entry]:
    entries = []
    for _ in range(count):
        begin = position + _CENTRAL.size
        if begin > stop or data[position : position + 4] != b"PK\1\2":
            raise Hostile("The archive's directory is malformed.", "WIPER-TS-003")
        fields = _CENTRAL.unpack_from(data, position)
        (
            _,
            _,
            needs,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            size,
            n_name,
            n_extra,
            n_comment,
            disk,
            _,
            marks,
            local,
        ) = fields
        after = begin + n_name + n_extra + n_comment
        if after > stop:
            raise Hostile("The archive's directory is malformed.", "WIPER-TS-003")
        raw, extra = data[begin : begin + n_name], data[begin + n_name : begin + n_name + n_extra]
        name = _decode(raw)
        if n_comment or disk:
            raise Hostile(f"Member {name!r} has a comment or lies on another disk.", "WIPER-TS-002", name)
        if flags & ~(_FLAG_DESCRIPTOR | _FLAG_UTF8) or method not in (STORED, DEFLATED) or needs > _NEWEST:
            raise Hostile(f"Member {name!r} is encrypted or packed unusually.", "WIPER-TS-006", name)
        if marks & _FOLDER:  # torch reads nothing then, and takes what lies in its memory
            raise Hostile(f"Member {name!r} has content and is marked as a folder.", "WIPER-TS-017", name)
        wide = _wide_fields(extra, name)
        if (wide is None) != (0xFFFFFFFF not in (size, packed, local)):
            raise _clash(name)
        size, packed, local = _wide((size, packed, local), wide, name)
        payload = _check_local(data, local, raw, flags, method, (crc, packed, size))
        if payload + packed > len(data) or (method == STORED and size != packed):
            raise _clash(name)
        descriptor = payload + packed if flags & _FLAG_DESCRIPTOR else None
        entries.append(Entry(name, method, crc, packed, size, local, payload, descriptor, position))
        position = after
    if position != stop:
        raise Hostile("The archive's directory is longer than its members.", "WIPER-TS-003")
    return entries


def _clash(name: str) -> Hostile:
    return Hostile(f"The header of member {name!r} contradicts the directory.", "WIPER-TS-003", name)


def _check_local(
    data: bytes, local: int, raw: bytes, flags: int, method: int, true: tuple[int, int, int]
) -> int:
    """Hold a member's own header against the directory; returns where the payload begins."""
    name = _decode(raw)
    begin = local + _LOCAL.size
    if begin > len(data) or data[local : local + 4] != b"PK\3\4":
        raise _clash(name)
    fields: tuple[int, ...] = _LOCAL.unpack_from(data, local)
    _, _, own_flags, own_method, _, _, crc, packed, size, n_name, n_extra = fields
    if own_flags != flags or own_method != method or data[begin : begin + n_name] != raw:
        raise _clash(name)
    extra = data[begin + n_name : begin + n_name + n_extra]
    if len(extra) != n_extra:
        raise _clash(name)
    size, packed, _ = _wide((size, packed, 0), _wide_fields(extra, name), name)
    own = (crc, packed, size)
    if own != true and not (
        flags & _FLAG_DESCRIPTOR and all(a in (0, b) for a, b in zip(own, true, strict=True))
    ):
        raise _clash(name)
    return begin + n_name + n_extra


def _wide_fields(extra: bytes, name: str) -> bytes | None:
    """Content of the Zip64 field, ``None`` without one; what stands in fields that readers differ on is refused."""
    found, position = None, 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind not in _EXTRA or (kind == _ZIP64 and found is not None):
            break
        position += 4 + length
        found = extra[position - length : position] if kind == _ZIP64 else found
    if position != len(extra):
        raise Hostile(f"Member {name!r} has unknown fields in its header.", "WIPER-TS-003", name)
    return found


def _wide(values: tuple[int, int, int], wide: bytes | None, name: str) -> tuple[int, int, int]:
    """Size, packed size and offset, taken from the Zip64 field where the header says 0xFFFFFFFF."""
    missing = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
    if not missing:
        return values
    if wide is None or len(wide) != 8 * len(missing):
        raise Hostile(f"Member {name!r} does not give its size.", "WIPER-TS-003", name)
    result = list(values)
    for i, value in zip(missing, struct.unpack(f"<{len(missing)}Q", wide), strict=True):
        result[i] = value
    return result[0], result[1], result[2]


def _check_coverage(data: bytes, entries: list[Entry], directory: int) -> None:
    """Members lie side by side from the first byte to the directory: none overlap, nothing lies between."""
    ordered = sorted(entries, key=lambda entry: entry.local)
    if ordered[0].local != 0:
        raise Hostile("Bytes stand before the archive.", "WIPER-TS-001")
    starts = [entry.local for entry in ordered[1:]] + [directory]
    for entry, following in zip(ordered, starts, strict=True):
        gap = following - entry.end
        if gap != 0 if entry.descriptor is None else gap not in (_DESCRIPTOR.size, _DESCRIPTOR64.size):
            raise Hostile(
                f"Member {entry.name!r} overlaps the next one, or bytes stand between them.",
                "WIPER-TS-001", entry.name,
            )  # fmt: skip
        if entry.descriptor is not None:
            layout = _DESCRIPTOR if gap == _DESCRIPTOR.size else _DESCRIPTOR64
            true = (b"PK\7\x08", entry.crc, entry.packed, entry.size)
            if layout.unpack_from(data, entry.descriptor) != true:
                raise _clash(entry.name)


def _check_content(data: bytes, entries: list[Entry]) -> None:
    view, inflated = memoryview(data), 0
    for entry in entries:
        raw: memoryview | bytes = view[entry.payload : entry.end]
        if entry.method == DEFLATED:
            inflated += entry.size
            if entry.size > MAX_RATIO * max(entry.packed, 16) or inflated > MAX_INFLATED:
                raise Hostile(f"Member {entry.name!r} unpacks to too much.", "WIPER-TS-008", entry.name)
            raw = _inflate(raw, entry)
        if zlib.crc32(raw) != entry.crc:
            raise Hostile(
                f"Member {entry.name!r} is damaged: its checksum does not fit; copy the file again.",
                "WIPER-TS-007", entry.name,
            )  # fmt: skip


def _inflate(raw: memoryview | bytes, entry: Entry) -> bytes:
    """Unpack to exactly the size that the directory gives, never further."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(raw, entry.size + 1)
    except zlib.error:
        content = b""
    if len(content) != entry.size or not stream.eof or stream.unused_data:
        raise Hostile(f"Member {entry.name!r} does not unpack to its size.", "WIPER-TS-007", entry.name)
    return content


def _decode(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name or len(raw) > _MAX_NAME:
        raise Hostile("A member's name is not printable text, or too long.", "WIPER-TS-005")
    return name


def _split_names(entries: list[Entry]) -> tuple[str, list[str]]:
    """The one folder, and every name below it: ASCII, relative, no two alike when capitals are ignored.

    The folder is named after the file that was saved, so it alone may hold other letters.
    """
    root = entries[0].name.partition("/")[0]
    below, seen = [], set()
    for entry in entries:
        folder, _, name = entry.name.partition("/")
        parts = entry.name.split("/")
        if folder != root or not name or not name.isascii() or any(part in ("", ".", "..") for part in parts):
            raise Hostile(f"Member {entry.name!r} is misplaced.", "WIPER-TS-005", entry.name)
        if "\\" in entry.name or ":" in name:
            raise Hostile(f"Member {entry.name!r} is misplaced.", "WIPER-TS-005", entry.name)
        if name.lower() in seen:
            raise Hostile(f"Two members are called {entry.name!r}.", "WIPER-TS-004", entry.name)
        seen.add(name.lower())
        below.append(name)
    return root, below
