"""The weights of any file in a definition that the user trusts: by name and shape, nothing else of the file.

The remedy for a branch in the graph, which no training removes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from formats.dtypes import FLOATS
from formats.errors import UnknownArchitecture
from formats.identify import inspect
from formats.model import Address, NewTensor, Source
from formats.ranges import stored_bytes
from formats.safetensors.architectures import definition, without_wrappers
from formats.tensors import to_bytes

#: Names that a sentence shows.
_SHOWN = 5


@dataclass(frozen=True)
class Rebuilt:
    """``tensors``: all that the definition holds, under its names, as the file stores them. ``moved``: how many come
    from the file; the others are counters of batch norm. ``left``: names in the file that the definition has no place
    for."""

    architecture: str
    tensors: Mapping[str, NewTensor]
    moved: int
    left: tuple[str, ...]


def rebuilt(source: Source, arch: str) -> Rebuilt:
    """The tensors of a file of any kind for the definition ``arch``, as ``--arch`` names it.

    Raises :class:`UnknownArchitecture` when there is no such definition, or when the file has not all its tensors by
    name, shape and a fixed place (an ONNX exporter that folds batch norm drops and renames them).
    """
    manifest = inspect(source)
    refused, best = None, None
    for prefix, shapes in without_wrappers(manifest).items():
        try:
            network, name = definition(arch, shapes)
        except UnknownArchitecture as error:
            refused = error
            continue
        state, stored = network.state_dict(), manifest.tensors
        keys = [key for key, value in state.items() if _fits(value, stored.get(prefix + key))]
        if best is None or len(keys) > len(best[1]):
            best = name, {key: stored[prefix + key] for key in keys}, state
    if best is None:
        assert refused is not None
        raise refused
    name, fitting, state = best
    missing = sorted(key for key in state.keys() - fitting.keys() if not key.endswith("num_batches_tracked"))
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UnknownArchitecture(
            f"{name} cannot be rebuilt: the file has no tensor of the right name and shape for "
            f"{', '.join(missing[:_SHOWN])}{more} ({len(fitting)} of {len(state)} were found)."
        )
    tensors = {
        key: NewTensor(fitting[key].dtype, fitting[key].shape, stored_bytes(source, fitting[key]))
        if key in fitting
        else NewTensor("I64", tuple(value.shape), to_bytes(value))
        for key, value in state.items()
    }
    taken = {address.name for address in fitting.values()}
    return Rebuilt(name, tensors, len(fitting), tuple(sorted(manifest.tensors.keys() - taken)))


def _fits(value: Tensor, address: Address | None) -> bool:
    """Whether a stored tensor can be this one of a definition."""
    return (
        address is not None
        and address.writable
        and address.shape == tuple(value.shape)
        and (address.dtype in FLOATS) == value.is_floating_point()
    )
