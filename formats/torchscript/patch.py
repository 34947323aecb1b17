"""New tensors into a TorchScript archive: only their elements and the checksums of their records change.

Standard library only. Checksums stand in the central directory, in the descriptor behind the payload, and in
the local header unless that leaves it 0.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO

from formats.model import Edit, Manifest, Source
from formats.ranges import overwritten
from formats.torchscript.central import read_archive

_LOCAL_CRC, _CENTRAL_CRC, _DESCRIPTOR_CRC = 14, 16, 4


def members(source: Source) -> dict[str, bytes]:
    """The entries below the archive's folder, unpacked; read by Python's zipfile, which checks what we write."""
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        return {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The archive with the edited tensors, as ``{"": bytes}``; all other bytes stay as they are."""
    archive = read_archive(source.data)
    data = bytearray(source.data)
    edited = {manifest.tensors[name].member for name in edit.tensors}
    records = {member: archive.read(member) for member in archive.entries if member in edited}
    for member, record in overwritten(records, manifest, edit).items():
        entry = archive.entries[member]
        data[entry.payload : entry.end] = record
        crc = zlib.crc32(record).to_bytes(4, "little")
        places = [entry.central + _CENTRAL_CRC]
        if entry.descriptor is not None:
            places.append(entry.descriptor + _DESCRIPTOR_CRC)
        if any(data[entry.local + _LOCAL_CRC : entry.local + _LOCAL_CRC + 4]):
            places.append(entry.local + _LOCAL_CRC)
        for place in places:
            data[place : place + 4] = crc
    return {"": bytes(data)}


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """As it is: the archive holds all its tensors."""
    return data
