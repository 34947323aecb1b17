"""New tensor values into an ONNX file: overwrite their byte ranges, leave every other byte alone."""

from __future__ import annotations

from formats.errors import EditError
from formats.model import Edit, Manifest, Source


def patch(source: Source, manifest: Manifest, edit: Edit) -> dict[str, bytes]:
    """Return the changed files: ``""`` is the model file, other keys are external locations.

    Raises ``EditError`` for a tensor that the file lacks, that is stored without a fixed byte range, or
    whose dtype, shape or number of bytes differ.
    """
    changed: dict[str, bytearray] = {}
    for name, new in edit.tensors.items():
        address = manifest.tensors.get(name)
        if address is None:
            raise EditError(f"The ONNX file has no tensor {name!r}.")
        if not address.writable:
            raise EditError(f"Tensor {name!r} is stored in an encoding that cannot be overwritten in place.")
        if (new.dtype, new.shape, len(new.data)) != (address.dtype, address.shape, address.length):
            raise EditError(
                f"Tensor {name!r} is {address.dtype}{list(address.shape)} in the file, "
                f"the new values are {new.dtype}{list(new.shape)} in {len(new.data)} bytes."
            )
        if address.member not in changed:
            old = source.files[address.member] if address.member else source.data
            changed[address.member] = bytearray(old)
        changed[address.member][address.offset : address.offset + address.length] = new.data
    return {member: bytes(data) for member, data in changed.items()}
