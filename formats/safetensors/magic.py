"""Files of tensors alone: a header of JSON, then the data."""

from __future__ import annotations


def recognises(data: bytes) -> bool:
    """Whether the first bytes are a plausible header length followed by a JSON object."""
    return data[8:].lstrip(b" \t\r\n")[:1] == b"{" and 2 <= int.from_bytes(data[:8], "little") < 1 << 40
