"""New tensors into a TorchScript archive: only their elements and the checksums of their records change.

Standard library only. Checksums stand in the central directory, in the descriptor behind the payload, and in
the local header unless that leaves it 0.
"""

from __future__ import annotations

import zlib

from formats.model import Edit, Manifest, Source
from formats.torchscript.archive import read_archive
from formats.write import overwrite

_LOCAL_CRC, _CENTRAL_CRC, _DESCRIPTOR_CRC = 14, 16, 4


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The archive with the edited tensors, as ``{"": bytes}``; all other bytes stay as they are.

    Whether the edit fits is checked by :func:`formats.write.write_edit`; a wrong length raises EditError here.
    """
    archive = read_archive(source.data)
    data = bytearray(source.data)
    records: dict[str, bytearray] = {}
    for name, new in edit.tensors.items():
        address = manifest.tensors[name]
        record = records.setdefault(address.member, bytearray(archive.read(address.member)))
        overwrite(record, address, new.data)
    for member, record in records.items():
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
