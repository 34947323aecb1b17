"""An ONNX graph as a torch module whose parameters are the file's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from formats.model import Manifest
from formats.onnx import proto
from formats.onnx.operators import SHAPE_INPUTS, UNTRAINED_INPUTS, lookup

#: Operators whose result is a shape, wherever their input lies.
_SHAPE_OUTPUTS = ("Shape", "Size")


class Step(NamedTuple):
    """One node: ``function(*slots[inputs], **attributes)`` into the slots ``outputs``.

    ``moved``: positions of inputs that are computed on the CPU and needed beside the images.
    ``freed``: slots that nobody reads afterwards.
    """

    function: Callable[..., Any]
    inputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[int, ...]
    moved: tuple[int, ...]
    freed: tuple[int, ...]


class GraphNetwork(nn.Module):
    """Interpreter of one graph: float32 [N,C,H,W] → logits float32 [N,K].

    Weights are parameters, other float tensors and index tables are buffers; shape data stays on the CPU.
    A graph of fixed batch size gets its batches cut to that size, the last one filled up.
    """

    def __init__(self, batch: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.batch = batch
        self.dtype = dtype
        self._steps: list[Step] = []
        self._slots: list[Tensor | None] = [None]  # slot 0: an input that the node leaves out
        self._tensors: list[tuple[int, str]] = []
        self._entry = 0
        self._exit = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.batch is None or x.shape[0] == self.batch:
            return self._run(x)
        parts = []
        for part in x.split(self.batch):
            missing = self.batch - part.shape[0]
            full = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
            parts.append(self._run(full)[: part.shape[0]])
        return torch.cat(parts)

    def _run(self, x: Tensor) -> Tensor:
        slots = list(self._slots)
        for slot, name in self._tensors:
            slots[slot] = getattr(self, name)
        slots[self._entry] = x.to(self.dtype)
        for function, inputs, attributes, outputs, moved, freed in self._steps:
            values = [slots[slot] for slot in inputs]
            for position in moved:
                values[position] = values[position].to(x.device)  # type: ignore[union-attr]
            result = function(*values, **attributes)
            if isinstance(result, tuple):
                for slot, value in zip(outputs, result, strict=False):
                    slots[slot] = value
            else:
                slots[outputs[0]] = result
            for slot in freed:
                slots[slot] = None
        logits = slots[self._exit]
        assert logits is not None
        return logits.float()


@dataclass
class _Builder:
    network: GraphNetwork
    slots: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    on_host: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = len(self.network._slots)
            self.network._slots.append(None)
        return self.slots[name]

    def register(self, name: str, value: Tensor, trained: bool) -> str:
        """Make ``value`` a parameter or a buffer under a name that torch allows."""
        inner = re.sub(r"\W+", "_", name) or "tensor"
        while inner in self.taken or hasattr(self.network, inner):
            inner += "_"
        self.taken.add(inner)
        if trained:
            self.network.register_parameter(inner, nn.Parameter(value))
        else:
            self.network.register_buffer(inner, value)
        self.network._tensors.append((self.slot(name), inner))
        return inner

    def read(self, name: str, beside_images: bool) -> int:
        """Slot of an input; a constant array used beside the images moves with the network."""
        if name not in self.constants:
            return self.slot(name)
        value = self.constants[name]
        if not beside_images or value.dim() == 0:
            slot = self.slot(name)
            self.network._slots[slot] = value
            return slot
        moving = f"{name}@device"
        if moving not in self.slots:
            self.register(moving, value, trained=False)
        return self.slots[moving]


def build(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], entry: proto.Signature, manifest: Manifest
) -> tuple[GraphNetwork, dict[str, str]]:
    """Build the network of ``nodes`` (all of them known); also name in the file → parameter name."""
    version = proto.opset(model)
    dtype = torch.float64 if entry.elem_type == onnx.TensorProto.DOUBLE else torch.float32
    builder = _Builder(GraphNetwork(entry.batch, dtype))
    network = builder.network

    aliases: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = [aliases.get(name, name) for name in proto.reads(node)]
        if node.op_type == "Identity":
            aliases[node.output[0]] = inputs[0]
        else:
            kept.append((node, inputs))
    for name, address in manifest.tensors.items():
        # Initializers that share one range of an external file.
        first = min((name, *(other for other in address.aliases if other in manifest.tensors)))
        if first != name:
            aliases[name] = first
    kept = [(node, [aliases.get(name, name) for name in inputs]) for node, inputs in kept]

    used = {name for _, inputs in kept for name in inputs}
    trained = _trainable(kept, manifest, used)
    names: dict[str, str] = {}
    stored = [(tensor.name, tensor) for tensor in model.graph.initializer]
    stored += [
        (node.output[0], attribute.t)
        for node, _ in kept
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for name, tensor in stored:
        if name not in used:
            continue
        if name in trained:
            names[name] = builder.register(name, _tensor(tensor), trained=True)
        else:
            builder.constants[name] = _tensor(tensor)
    for name, first in aliases.items():
        if first in names and name in manifest.tensors:
            names[name] = names[first]

    network._entry = builder.slot(entry.input)
    for node, inputs in kept:
        if node.op_type != "Constant" or node.output[0] not in {*names, *builder.constants}:
            _add(builder, node, inputs, version)
    network._exit = builder.slot(aliases.get(entry.output, entry.output))
    _free(network)
    return network.eval(), names


def _trainable(
    kept: Iterable[tuple[onnx.NodeProto, list[str]]], manifest: Manifest, used: set[str]
) -> set[str]:
    """Float tensors that weigh something: no statistics, no shapes, no single numbers of Constant nodes."""
    untrained: set[str] = set()
    literal: set[str] = set()
    for node, inputs in kept:
        positions = UNTRAINED_INPUTS.get(node.op_type, frozenset())
        untrained.update(name for i, name in enumerate(inputs) if i in positions)
        if node.op_type == "Constant":
            literal.add(node.output[0])
    return {
        name
        for name, address in manifest.tensors.items()
        if name in used
        and name not in untrained
        and address.dtype in ("F16", "BF16", "F32", "F64")
        and address.shape
        and address.elements > (1 if name in literal else 0)
        and address.writable
    }


def _tensor(stored: onnx.TensorProto) -> Tensor:
    """A stored tensor in the dtype of the computation: half precision becomes float32."""
    array = numpy_helper.to_array(stored)
    if stored.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C"))


def _add(builder: _Builder, node: onnx.NodeProto, inputs: list[str], version: int) -> None:
    found = lookup(node.op_type, version)
    assert found is not None, node.op_type
    function = found[1]
    attributes = {one.name: proto.attribute_value(one) for one in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, onnx.TensorProto):
            attributes[name] = _tensor(value)
    if proto.wants_count(function):
        attributes["outputs"] = len(node.output)
    outputs = [name for name in node.output if name]

    constant = all(not name or name in builder.constants for name in inputs)
    if constant:
        with torch.no_grad():
            result = function(*[builder.constants.get(name) for name in inputs], **attributes)
        values = result if isinstance(result, tuple) else (result,)
        builder.constants.update(zip(outputs, values, strict=False))
        return
    hosted = all(not name or name in builder.constants or name in builder.on_host for name in inputs)
    if hosted or node.op_type in _SHAPE_OUTPUTS:
        builder.on_host.update(outputs)
    shaping = SHAPE_INPUTS.get(node.op_type, frozenset())
    slots, moved = [], []
    for position, name in enumerate(inputs):
        beside = not hosted and position not in shaping
        slots.append(builder.read(name, beside) if name else 0)
        if beside and name in builder.on_host:
            moved.append(position)
    builder.network._steps.append(
        Step(
            function,
            tuple(slots),
            attributes,
            tuple(builder.slot(name) for name in outputs),
            tuple(moved),
            (),
        )
    )


def _free(network: GraphNetwork) -> None:
    """Note after which step each computed value is read for the last time."""
    computed = {slot for step in network._steps for slot in step.outputs} | {network._entry}
    seen = {network._exit}
    steps = []
    for step in reversed(network._steps):
        last = (set(step.inputs) | set(step.outputs)) & computed - seen
        seen |= last
        steps.append(step._replace(freed=tuple(sorted(last))))
    network._steps = steps[::-1]
