"""Archives of ``torch.jit.save``: a network as code, its tensors as records."""

from __future__ import annotations

import zipfile
from io import BytesIO

from formats.torchscript.central import MAX_ENTRIES


def recognises(data: bytes) -> bool:
    """Whether this is a ZIP file with a member that only TorchScript has; the rest is judged on reading."""
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return False
    if data.count(b"PK\1\2") > MAX_ENTRIES:  # more than the reader takes, and gigabytes for zipfile
        return True
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False
