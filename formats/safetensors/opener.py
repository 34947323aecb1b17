"""Open a safetensors file: choose the architecture, lay the file's tensors into it."""

from __future__ import annotations

from torch import Tensor

from formats.errors import Unsupported
from formats.model import InputSpec, Manifest, Opened, Source
from formats.safetensors.architectures import Choice, choose, load_state
from formats.safetensors.patch import members
from formats.tensors import TORCH, from_bytes


def open_file(source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
    """The network in float32 with the file's values, and which of its parameters is which tensor.

    Raises :class:`UnknownArchitecture` when no architecture is known that fits, :class:`Unsupported` for
    dtypes that are not computed with.
    """
    for a in manifest.tensors.values():
        if a.dtype not in TORCH:
            raise Unsupported(f"Tensor {a.name!r} is stored as {a.dtype}, which cannot be opened here.")
    choice = choose(source, manifest, arch)
    load_state(choice, _tensors(source, manifest))
    notes = list(choice.notes)
    low = sorted({a.dtype for a in manifest.tensors.values() if a.dtype in ("F16", "BF16", "F64")})
    if low:
        notes.append(f"stored as {', '.join(low)}; computed in float32 and rounded once when written")
    return Opened(
        network=choice.network,
        tensors=_names(choice, manifest),
        architecture=choice.architecture,
        input=_default_size(choice),
        notes=tuple(notes),
    )


def _tensors(source: Source, manifest: Manifest) -> dict[str, Tensor]:
    parts = members(source)
    return {
        name: from_bytes(parts[a.member][a.offset : a.offset + a.length], a.dtype, a.shape)
        for name, a in manifest.tensors.items()
    }


def _names(choice: Choice, manifest: Manifest) -> dict[str, str]:
    """Name in the file → name of the parameter; two names of one parameter lead to the same one."""
    canonical = {id(parameter): name for name, parameter in choice.network.named_parameters()}
    every = dict(choice.network.named_parameters(remove_duplicate=False))
    found = {}
    for name in manifest.tensors:
        parameter = every.get(choice.names.get(name, ""))
        if parameter is not None:
            found[name] = canonical[id(parameter)]
    return found


def _default_size(choice: Choice) -> InputSpec:
    """timm and transformers know a size for each network; it is worth a try, and may not be the only one."""
    size = getattr(choice.network, "pretrained_cfg", {}).get("input_size")
    side = getattr(getattr(choice.network, "config", None), "image_size", None)
    height, width = size[1:] if size else side if isinstance(side, list | tuple) else (side, side)
    return InputSpec(height=height, width=width, origin="architecture") if height and width else InputSpec()
