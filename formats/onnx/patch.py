"""New tensor values into an ONNX file: their byte ranges are overwritten, every other byte stays."""

from __future__ import annotations

from formats.model import Edit, Manifest, Source
from formats.ranges import overwritten


def members(source: Source) -> dict[str, bytes]:
    """The model file under "", external files by their location."""
    return {"": source.data, **source.files}


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """The files that change, named as by :func:`members`."""
    return overwritten(members(source), manifest, edit)
