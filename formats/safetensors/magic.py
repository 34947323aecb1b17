"""Files of tensors alone: a header of JSON, then the data; or an index of several."""

from __future__ import annotations

import re

from formats.safetensors.shards import is_index

_BRACE = re.compile(rb"[ \t\r\n]*+\{")


def recognises(data: bytes) -> bool:
    """Whether the first bytes are a plausible header length followed by a JSON object, or it is an index of shards."""
    return (bool(_BRACE.match(data, 8)) and 2 <= int.from_bytes(data[:8], "little") < 1 << 40) or is_index(
        data
    )
