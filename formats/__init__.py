"""A model file in, a differentiable network out, and the same file back.

Importing this package imports no torch: what needs it is loaded on first use. Nothing here knows of
commands, triggers or defences.

    source   = read_source(path)              # bytes, once; refuses what is no model file
    manifest = inspect(source)                # kind and tensor addresses; static, no torch
    dataflow = trace(source)                  # how pixels reach the logits; None without a graph
    model    = open_model(source, arch=None)  # Model: network, head, tensors
    edit     = edit_of(model, network)        # what a trained deepcopy of model.network changed
    data     = write_edit(source, manifest, edit)  # {"" : model bytes, "weights.data": external bytes}
    files    = own_names(source, manifest, data, "out.onnx")  # all to be laid side by side, by file name
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from formats.errors import (
    Ambiguous,
    EditError,
    FormatError,
    Hostile,
    Stateful,
    UnknownArchitecture,
    Unreadable,
    Unsupported,
)

# Not lazily: the function must win over the module of the same name.
from formats.identify import identify, inspect, read_source
from formats.model import (
    Address,
    Architecture,
    Edit,
    Head,
    InputSpec,
    Kind,
    Manifest,
    Model,
    NewTensor,
    Preprocessing,
    Source,
)

if TYPE_CHECKING:
    from formats.edit import apply_edit, edit_of, head_edit
    from formats.head import HeadTap, head_values
    from formats.open import open_model, serve, trace
    from formats.ranges import stored_bytes
    from formats.safetensors.pack import pack_tensors, unpack_tensors
    from formats.write import own_names, write_edit

_LAZY = {
    "open_model": "formats.open",
    "serve": "formats.open",
    "stored_bytes": "formats.ranges",
    "trace": "formats.open",
    "write_edit": "formats.write",
    "own_names": "formats.write",
    "unpack_tensors": "formats.safetensors.pack",
    "pack_tensors": "formats.safetensors.pack",
    "edit_of": "formats.edit",
    "head_edit": "formats.edit",
    "apply_edit": "formats.edit",
    "HeadTap": "formats.head",
    "head_values": "formats.head",
}

__all__ = [
    "Address",
    "Ambiguous",
    "Architecture",
    "Edit",
    "EditError",
    "FormatError",
    "Head",
    "HeadTap",
    "Hostile",
    "InputSpec",
    "Kind",
    "Manifest",
    "Model",
    "NewTensor",
    "Preprocessing",
    "Source",
    "Stateful",
    "UnknownArchitecture",
    "Unreadable",
    "Unsupported",
    "apply_edit",
    "edit_of",
    "head_edit",
    "head_values",
    "identify",
    "inspect",
    "open_model",
    "own_names",
    "pack_tensors",
    "read_source",
    "serve",
    "stored_bytes",
    "trace",
    "unpack_tensors",
    "write_edit",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'formats' has no attribute {name!r}")
