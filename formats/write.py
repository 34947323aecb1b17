"""Original bytes and an edit make the new bytes: only the ranges of the edited tensors change. No torch.

What is written is proved before it is returned: the result is read again, and each of its members must equal
the original one with nothing but the new values laid over it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from formats.errors import EditError
from formats.identify import inspect
from formats.kinds import reader, writer
from formats.model import Edit, Manifest, Source
from formats.ranges import check_fits, gather, overwritten
from formats.safetensors.shards import SUFFIX

#: What a model's data files are called by us.
DATA_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*\.[0-9a-f]{16}(-\d+)?\.(data|safetensors)", re.ASCII)


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


def own_names(
    source: Source, manifest: Manifest, written: Mapping[str, bytes], name: str
) -> dict[str, bytes]:
    """File name → content of all that the written model (:func:`write_edit`) consists of, the model as ``name``.

    What it keeps outside gets a name of ours, with a digest of all that is outside: no name that the model chose is
    ever written, and the files of one model never take the place of another's.

    Raises :class:`EditError` where the renamed model would not be the same but for these names.
    """
    data = written[""]
    outside = {location: written.get(location, old) for location, old in source.files.items()}
    if not outside:
        return {name: data}
    digests = b"".join(hashlib.sha256(content).digest() for content in outside.values())
    digest = hashlib.sha256(digests).hexdigest()[:16]
    # Shards are loaded by their suffix.
    end = "safetensors" if manifest.kind == "safetensors" else "data"
    stem = name.removesuffix(SUFFIX)
    stem = stem if DATA_NAME.fullmatch(f"{stem}.{digest}.{end}") else "model"
    numbers = [""] if len(outside) == 1 else [f"-{number}" for number in range(1, len(outside) + 1)]
    names = {old: f"{stem}.{digest}{number}.{end}" for old, number in zip(outside, numbers, strict=True)}
    renamed = writer(manifest.kind).renamed
    model = renamed(data, names)
    back = renamed(model, {new: old for old, new in names.items()})
    if back != data or {*reader(manifest.kind).external_locations(model)} != {*names.values()}:
        raise EditError("The names of the model's external files cannot be changed alone; nothing was kept.")
    return {**{names[old]: content for old, content in outside.items()}, name: model}


def is_own(name: str, model: str) -> bool:
    """Whether a data file is called as :func:`own_names` calls those of a model of that name, and of no other."""
    return bool(DATA_NAME.fullmatch(name)) and name.rsplit(".", 2)[0] == model.removesuffix(SUFFIX)


def _prove(source: Source, manifest: Manifest, edit: Edit, written: Mapping[str, bytes]) -> None:
    """Every member of the result is the original one with exactly the edited tensors laid over it."""
    if not set(written) - {""} <= set(source.files):
        raise EditError("The edit would write other files than the model's own.")
    result = source.rewritten(written)
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
