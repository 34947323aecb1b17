"""Where the elements of a tensor lie in the bytes of its part of the file; standard library only.

A *member* is a part of the file with bytes of its own: the model file (""), an external file, an archive entry.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import product

from formats.errors import EditError
from formats.model import Address, Edit, Manifest, Source


def stored_bytes(source: Source, address: Address) -> bytes:
    """The elements of one tensor as the file holds them: C-contiguous, little-endian."""
    return gather(_payload(source, address.member), address)


def gather(payload: bytes, address: Address) -> bytes:
    """The elements of one tensor out of ``payload``, the bytes of its member; C-contiguous."""
    found = bytearray(address.size)
    for place, origin in _slices(address, len(payload)):
        found[origin] = payload[place]
    return bytes(found)


def overwrite(data: bytearray, address: Address, new: bytes) -> None:
    """Lay the C-contiguous elements ``new`` over ``data``, the payload of the address's member.

    Raises :class:`EditError` when the elements would not fit inside it.
    """
    if len(new) != address.size:
        raise EditError(
            f"The new values of {address.name!r} have {len(new)} bytes, which is no whole tensor."
        )
    for place, origin in _slices(address, len(data)):
        data[place] = new[origin]


def overwritten(members: Mapping[str, bytes], manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """Those of ``members`` that hold edited tensors, with the new values laid over them."""
    changed: dict[str, bytearray] = {}
    for name, new in edit.tensors.items():
        address = manifest.tensors[name]
        if address.member not in members:
            raise EditError(f"Tensor {name!r} lies in a part that the file does not have.")
        if address.member not in changed:
            changed[address.member] = bytearray(members[address.member])
        overwrite(changed[address.member], address, new.data)
    return {member: bytes(data) for member, data in changed.items()}


def check_fits(manifest: Manifest, edit: Edit) -> None:
    """Raises :class:`EditError` unless every new tensor has a fixed place, its dtype, shape and length."""
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
        if len(new.data) != address.size:
            raise EditError(
                f"The new values of {name!r} have {len(new.data)} bytes, which is no whole tensor."
            )
        for alias in address.aliases:
            if alias in edit.tensors and edit.tensors[alias].data != new.data:
                raise EditError(f"{name!r} and {alias!r} are one stored tensor but get different values.")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(shape: tuple[int, ...], stride: tuple[int, ...] | None) -> bool:
    """Whether the elements lie C-contiguously; strides of dimensions of one element do not count."""
    return stride is None or all(
        n == 1 or s == c for n, s, c in zip(shape, stride, contiguous(shape), strict=True)
    )


def _payload(source: Source, member: str) -> bytes:
    if member == "":
        return source.data
    if member in source.files:
        return source.files[member]
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        root = archive.namelist()[0].partition("/")[0]
        return archive.read(f"{root}/{member}")


def _slices(address: Address, size: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices, in the member's payload and in the C-contiguous elements, that cover the tensor.

    Strided tensors go byte by byte of an element along their longest dimension: few and long slices.
    """
    item, shape, stride = address.item, address.shape, address.stride
    if not address.elements:
        return
    if stride is None or is_dense(shape, stride):
        _check_inside(address, address.offset + address.size, size)
        yield slice(address.offset, address.offset + address.size), slice(0, address.size)
        return
    if any(n > 1 and s <= 0 for n, s in zip(shape, stride, strict=True)):
        raise EditError(f"Tensor {address.name!r} repeats stored elements.")
    last = sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    _check_inside(address, address.offset + (last + 1) * item, size)
    dense = contiguous(shape)
    long = max(range(len(shape)), key=lambda axis: shape[axis])
    others = [range(n) if axis != long else range(1) for axis, n in enumerate(shape)]
    for index in product(*others):
        place = address.offset + item * sum(i * s for i, s in zip(index, stride, strict=True))
        origin = item * sum(i * c for i, c in zip(index, dense, strict=True))
        steps = item * stride[long], item * dense[long]
        spans = steps[0] * (shape[long] - 1) + 1, steps[1] * (shape[long] - 1) + 1
        for byte in range(item):
            yield (
                slice(place + byte, place + byte + spans[0], steps[0]),
                slice(origin + byte, origin + byte + spans[1], steps[1]),
            )


def _check_inside(address: Address, end: int, size: int) -> None:
    if address.offset < 0 or end > size:
        raise EditError(f"Tensor {address.name!r} does not lie inside its part of the file.")
