"""Edits: what a trained copy of a network changed, in the dtype and layout of the file; and back again.

Packing and unpacking need no torch: tensors cross from the process that computes to the one that writes.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from formats.errors import EditError
from formats.model import Address, Edit, Model, NewTensor
from formats.ranges import stored_bytes

if TYPE_CHECKING:
    import torch


def edit_of(model: Model, network: torch.nn.Module) -> Edit:
    """What ``network``, a trained deepcopy of ``model.network``, holds differently from the file.

    Values are rounded to the file's dtype first: a change that the rounding swallows is no change. Tensors
    that share storage enter once. Raises :class:`EditError` when a changed tensor cannot be stored.
    """
    parameters = model.named(network) | model.statistics(network)
    original = model.named() | model.statistics()
    changed: dict[str, NewTensor] = {}
    for name, parameter in parameters.items():
        address = model.manifest.tensors[name]
        if any(alias in changed for alias in address.aliases):
            continue
        if parameter is original[name] or _same(parameter, original[name]):
            continue
        if not address.writable:
            raise EditError(f"Tensor {name!r} is stored without a fixed place and cannot be replaced.")
        new = _to_file(address, parameter)
        if new.data != stored_bytes(model.source, address):
            changed[name] = new
    return Edit(changed)


def head_edit(model: Model, weight: torch.Tensor, bias: torch.Tensor | None) -> Edit:
    """New values of the head: ``weight`` [K,D], ``bias`` [K] (dropped when the file has none). Where one row stands for
    two classes, it gets the difference of theirs.

    Raises :class:`EditError` when the model has no linear head or the shapes do not fit.
    """
    head = model.head
    if head is None or not head.linear:
        raise EditError("The model has no linear head that could be replaced alone.")
    if tuple(weight.shape) != (model.classes, head.units):
        raise EditError(
            f"The head takes weights of {model.classes} x {head.units}, not {list(weight.shape)}."
        )
    runtime: Any = model.runtime
    if model.network is None and hasattr(runtime, "head_edit"):
        edit: Edit = runtime.head_edit(weight, bias)
        return edit
    if head.classes == 1:
        weight, bias = weight[1:] - weight[:1], None if bias is None else bias[1:] - bias[:1]
    weight = weight.detach().double() / head.scale
    values = {head.weight: weight.T if head.layout == "in_out" else weight}
    if bias is not None and head.bias is not None:
        values[head.bias] = bias.detach().double() / head.scale
    changed = {}
    for name, value in values.items():
        address = model.manifest.tensors[name]
        new = _to_file(address, value.reshape(address.shape))
        if new.data != stored_bytes(model.source, address):
            changed[name] = new
    return Edit(changed)


def apply_edit(model: Model, edit: Edit) -> Model:
    """The model with the edit's values in a deepcopy of its network; the given one stays as it is."""
    import torch

    from formats.tensors import from_bytes

    if model.network is None:
        runtime: Any = model.runtime
        return dataclasses.replace(model, runtime=runtime.with_edit(edit))
    network = copy.deepcopy(model.network)
    parameters = model.named(network) | model.statistics(network)
    for name, new in edit.tensors.items():
        if name not in parameters:
            raise EditError(f"The network has no weight {name!r}.")
        parameter = parameters[name]
        with torch.no_grad():
            parameter.copy_(from_bytes(new.data, new.dtype, parameter.shape))
    return dataclasses.replace(model, network=network)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return torch.equal(a.detach().cpu(), b.detach().cpu())


def _to_file(address: Address, value: torch.Tensor) -> NewTensor:
    """A tensor's values as the file stores them: rounded to its dtype, C-contiguous, little-endian."""
    from formats.tensors import TORCH, to_bytes

    if address.dtype not in TORCH:
        raise EditError(f"Tensor {address.name!r} is stored as {address.dtype}, which cannot be edited.")
    value = value.detach().cpu()
    if tuple(size for size in value.shape if size != 1) != tuple(s for s in address.shape if s != 1):
        raise EditError(
            f"Tensor {address.name!r} has shape {list(address.shape)}, the new values {list(value.shape)}."
        )
    rounded = value.to(TORCH[address.dtype])
    if rounded.is_floating_point() and not bool(rounded.float().isfinite().all()):
        raise EditError(f"The new values of {address.name!r} are not finite in {address.dtype}.")
    return NewTensor(address.dtype, address.shape, to_bytes(rounded))
