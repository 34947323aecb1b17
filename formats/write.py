"""Original bytes and an edit make the new bytes: only the ranges of the edited tensors change. No torch.

What is written is proved before it is returned: the result is read again, and each of its members must equal
the original one with nothing but the new values laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from formats.errors import EditError
from formats.identify import inspect
from formats.kinds import writer
from formats.model import Edit, Manifest, Source
from formats.ranges import check_fits, gather, overwritten


def write_edit(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """New content of the model file (under "") and of the external files that change (by their location).

    Raises :class:`EditError` when the edit does not fit the file, or when the result is not exactly the
    original with the edited tensors replaced.
    """
    check_fits(manifest, edit)
    if not edit:
        return {"": source.data}
    written = {"": source.data, **writer(manifest.kind).patch(source, manifest, edit)}
    _prove(source, manifest, edit, written)
    return written


def _prove(source: Source, manifest: Manifest, edit: Edit, written: Mapping[str, bytes]) -> None:
    """Every member of the result is the original one with exactly the edited tensors laid over it."""
    if not set(written) - {""} <= set(source.files):
        raise EditError("The edit would write other files than the model's own.")
    result = replace(
        source, data=written[""], files={name: written.get(name, old) for name, old in source.files.items()}
    )
    again = inspect(result)
    if dict(again.tensors) != dict(manifest.tensors) or dict(again.metadata) != dict(manifest.metadata):
        raise EditError("The written file describes other tensors than the original; nothing was kept.")
    members = writer(manifest.kind).members
    old, new = members(source), members(result)
    if list(old) != list(new):
        raise EditError("The written file has other parts than the original; nothing was kept.")
    edited = overwritten(old, manifest, edit)
    for member, payload in (old | edited).items():
        if payload != new[member]:
            part = f"part {member!r} of the file" if member else "the file"
            raise EditError(f"Writing changed more or less of {part} than the edit says; nothing was kept.")
    for name, address in manifest.tensors.items():
        if address.member not in edited or not address.writable:
            continue
        now = gather(new[address.member], address)
        named = next((n for n in (name, *address.aliases) if n in edit.tensors), None)
        before = edit.tensors[named].data if named else gather(old[address.member], address)
        if now != before:
            raise EditError(
                f"Tensor {name!r} shares storage with an edited tensor and cannot keep its values."
            )
