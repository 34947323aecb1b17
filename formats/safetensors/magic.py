"""Files of tensors alone: a header of JSON, then the data."""

from __future__ import annotations

import re

_BRACE = re.compile(rb"[ \t\r\n]*+\{")


def recognises(data: bytes) -> bool:
    """Whether the first bytes are a plausible header length followed by a JSON object."""
    return bool(_BRACE.match(data, 8)) and 2 <= int.from_bytes(data[:8], "little") < 1 << 40
