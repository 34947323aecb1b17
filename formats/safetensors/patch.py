"""New tensor values into a safetensors file: their byte ranges are overwritten, every other byte stays."""

from __future__ import annotations

from collections.abc import Mapping

from formats.model import Edit, Manifest, Source
from formats.ranges import overwritten
from formats.safetensors import shards


def members(source: Source) -> dict[str, bytes]:
    """The file itself, or an index and its shards."""
    return {"": source.data, **source.files}


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The changed file under "", changed shards by their names."""
    return overwritten(members(source), manifest, edit)


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """As it is, where the file holds all its tensors; else the index, with its shards called so."""
    return shards.renamed(data, names) if names else data
