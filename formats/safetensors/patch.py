"""New tensor values into a safetensors file: their byte ranges are overwritten, every other byte stays."""

from __future__ import annotations

from collections.abc import Mapping

from formats.model import Edit, Manifest, Source
from formats.ranges import overwritten


def members(source: Source) -> dict[str, bytes]:
    """The file itself."""
    return {"": source.data}


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The changed file under ""."""
    return overwritten(members(source), manifest, edit)


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """As it is: the file holds all its tensors."""
    return data
