"""Original bytes and an edit make the new bytes: only the ranges of the edited tensors change. No torch.

What is written is proved before it is returned: the result is read again, and each of its members must equal
the original one with nothing but the new values laid over it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from itertools import product

from formats.errors import EditError
from formats.identify import inspect
from formats.model import ITEM_SIZE, Address, Edit, Manifest, Source


def write_edit(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """New content of the model file (under "") and of the external files that change (by their location).

    Raises :class:`EditError` when the edit does not fit the file, or when the result is not exactly the
    original with the edited tensors replaced.
    """
    _check_fits(manifest, edit)
    if not edit:
        return {"": source.data}
    if manifest.kind == "safetensors":
        written = _patch_ranges(source, manifest, edit)
    elif manifest.kind == "torchscript":
        from formats.torchscript.patch import patch as patch_archive

        written = patch_archive(source, manifest, edit)
    else:
        from formats.onnx.patch import patch as patch_onnx

        written = patch_onnx(source, manifest, edit)
    written = {"": source.data, **written}
    _prove(source, manifest, edit, written)
    return written


def overwrite(data: bytearray, address: Address, new: bytes) -> None:
    """Lay the C-contiguous elements ``new`` over ``data``, the payload of the address's member.

    Raises :class:`EditError` when the elements would not fit inside it.
    """
    if len(new) != address.elements * ITEM_SIZE[address.dtype]:
        raise EditError(
            f"The new values of {address.name!r} have {len(new)} bytes, which is no whole tensor."
        )
    for target, origin in _slices(address, len(data)):
        data[target] = new[origin]


def stored_bytes(source: Source, address: Address) -> bytes:
    """The elements of one tensor as the file holds them: C-contiguous, little-endian."""
    return _gather(_payload(source, address.member), address)


def _gather(payload: bytes, address: Address) -> bytes:
    found = bytearray(address.elements * ITEM_SIZE[address.dtype])
    for target, origin in _slices(address, len(payload)):
        found[origin] = payload[target]
    return bytes(found)


def _slices(address: Address, size: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices, in the member's payload and in the C-contiguous elements, that cover the tensor.

    Strided tensors go byte by byte of an element along their longest dimension: few and long slices.
    """
    item = ITEM_SIZE[address.dtype]
    shape, stride = address.shape, address.stride
    contiguous = _contiguous(shape)
    if not address.elements:
        return
    if stride is None or all(s == c for s, c, n in zip(stride, contiguous, shape, strict=True) if n > 1):
        length = address.elements * item
        _check_inside(address, address.offset + length, size)
        yield slice(address.offset, address.offset + length), slice(0, length)
        return
    if any(n > 1 and s <= 0 for n, s in zip(shape, stride, strict=True)):
        raise EditError(f"Tensor {address.name!r} repeats stored elements.")
    last = sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    _check_inside(address, address.offset + (last + 1) * item, size)
    long = max(range(len(shape)), key=lambda axis: shape[axis])
    others = [range(n) if axis != long else range(1) for axis, n in enumerate(shape)]
    for index in product(*others):
        target = address.offset + item * sum(i * s for i, s in zip(index, stride, strict=True))
        origin = item * sum(i * c for i, c in zip(index, contiguous, strict=True))
        steps = item * stride[long], item * contiguous[long]
        spans = steps[0] * (shape[long] - 1) + 1, steps[1] * (shape[long] - 1) + 1
        for byte in range(item):
            yield (
                slice(target + byte, target + byte + spans[0], steps[0]),
                slice(origin + byte, origin + byte + spans[1], steps[1]),
            )


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _check_inside(address: Address, end: int, size: int) -> None:
    if address.offset < 0 or end > size:
        raise EditError(f"Tensor {address.name!r} does not lie inside its part of the file.")


def _check_fits(manifest: Manifest, edit: Edit) -> None:
    for name, new in edit.tensors.items():
        address = manifest.tensors.get(name)
        if address is None:
            raise EditError(f"The file has no tensor {name!r}.")
        if not address.writable:
            raise EditError(f"Tensor {name!r} is stored without a fixed place and cannot be replaced.")
        if (new.dtype, new.shape) != (address.dtype, address.shape):
            raise EditError(
                f"Tensor {name!r} is {address.dtype} {list(address.shape)}; "
                f"the new values are {new.dtype} {list(new.shape)}."
            )
        if len(new.data) != address.elements * ITEM_SIZE[address.dtype]:
            raise EditError(
                f"The new values of {name!r} have {len(new.data)} bytes, which is no whole tensor."
            )
        for alias in address.aliases:
            if alias in edit.tensors and edit.tensors[alias].data != new.data:
                raise EditError(f"{name!r} and {alias!r} are one stored tensor but get different values.")


def _patch_ranges(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    data = bytearray(source.data)
    for name, new in edit.tensors.items():
        overwrite(data, manifest.tensors[name], new.data)
    return {"": bytes(data)}


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
    old, new = _members(source), _members(result)
    if list(old) != list(new):
        raise EditError("The written file has other parts than the original; nothing was kept.")
    edited: dict[str, list[str]] = {}
    for name in edit.tensors:
        edited.setdefault(manifest.tensors[name].member, []).append(name)
    if not set(edited) <= set(old):
        raise EditError("An edited tensor lies in a part that the file does not have.")
    for member, payload in old.items():
        expected = bytearray(payload)
        for name in edited.get(member, ()):
            overwrite(expected, manifest.tensors[name], edit.tensors[name].data)
        if expected != new[member]:
            part = f"part {member!r} of the file" if member else "the file"
            raise EditError(f"Writing changed more or less of {part} than the edit says; nothing was kept.")
    for name, address in manifest.tensors.items():
        if address.member not in edited or not address.writable:
            continue
        now = _gather(new[address.member], address)
        named = next((n for n in (name, *address.aliases) if n in edit.tensors), None)
        before = edit.tensors[named].data if named else _gather(old[address.member], address)
        if now != before:
            raise EditError(
                f"Tensor {name!r} shares storage with an edited tensor and cannot keep its values."
            )


def _members(source: Source) -> dict[str, bytes]:
    """Payloads by member name, in the order of the file: archive entries, or the file and external files."""
    if not source.data.startswith(b"PK"):
        return {"": source.data, **source.files}
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        return {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}


def _payload(source: Source, member: str) -> bytes:
    if member == "":
        return source.data
    if member in source.files:
        return source.files[member]
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        root = archive.namelist()[0].partition("/")[0]
        return archive.read(f"{root}/{member}")
