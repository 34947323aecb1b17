"""Stored elements as tensors of torch, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from formats.dtypes import DTYPES

#: Name of a dtype in the file → torch's; those that are never computed with are left out.
TORCH: Mapping[str, torch.dtype] = {
    name: getattr(torch, one.torch) for name, one in DTYPES.items() if one.torch is not None
}


def from_bytes(data: bytes | memoryview, dtype: str, shape: Sequence[int] = (-1,)) -> Tensor:
    """C-contiguous, little-endian elements, copied. Raises KeyError for a dtype outside :data:`TORCH`."""
    flat = (
        torch.frombuffer(bytearray(data), dtype=TORCH[dtype]) if data else torch.empty(0, dtype=TORCH[dtype])
    )
    return flat.reshape(tuple(shape))


def to_bytes(values: Tensor) -> bytes:
    """The elements as a file stores them: C-contiguous, little-endian."""
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
