"""Safetensors in several files, shards, with an index that says which tensor lies in which; standard library only.

As huggingface_hub writes them: ``{"metadata": {…}, "weight_map": {tensor: file}}``, beside the shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from formats.errors import Hostile, Unreadable

#: What an index is called, behind the stem of its shards.
SUFFIX = ".safetensors.index.json"
#: Bytes of an index.
_LARGEST = 16 << 20
_START = re.compile(rb"\s*\{")


def is_index(data: bytes) -> bool:
    """Whether the bytes look like an index."""
    return len(data) <= _LARGEST and bool(_START.match(data)) and b'"weight_map"' in data


def weight_map(data: bytes) -> dict[str, str]:
    """Name of a tensor → name of its file. Raises ``Unreadable``, and ``Hostile`` for a key that stands twice."""
    try:
        index = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable("The index of the shards is no JSON; get a whole copy.") from error
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise Unreadable("The index of the shards has no weight_map from names of tensors to names of files.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _twice(name)
        found[name] = value
    return found


def _twice(name: str) -> Hostile:
    place = ascii(name[:512])
    return Hostile(
        f"The name {name[:80]!r} appears twice in the index or its shards; no honest writer makes such files.",
        "WIPER-ST-003",
        place,
    )


def require_match(index: Mapping[str, str], held: Mapping[str, list[str]]) -> None:
    """Raises ``Unreadable`` where the shards (file → names of its tensors) do not hold what the index says, ``Hostile``
    where two of them hold a tensor of one name."""
    there: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            if name in there:
                raise _twice(name)
            there[name] = file
    wrong = sorted(name for name in index.keys() | there.keys() if index.get(name) != there.get(name))
    if wrong:
        name = wrong[0]
        says, holds = (f"in {one[name]!r}" if name in one else "nowhere" for one in (index, there))
        raise Unreadable(
            f"The index and the shards differ: tensor {name[:80]!r} is {says} by the index and is {holds} "
            f"({len(wrong)} such tensors); get all files anew, from one place."
        )


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """The index with its shards called ``names[file]``; not a byte besides changes."""
    for old, new in names.items():
        data = data.replace(json.dumps(old).encode(), json.dumps(new).encode())
    return data
