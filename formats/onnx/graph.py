"""An ONNX graph as a torch module whose parameters are the file's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from formats.dtypes import FLOATS
from formats.model import Manifest
from formats.onnx import precision, proto
from formats.onnx.fusion import Call, fuse
from formats.onnx.operators import SHAPE_INPUTS, UNTRAINED_INPUTS, lookup
from formats.outputs import rows

#: Operators whose result is a shape, wherever their input lies.
_SHAPE_OUTPUTS = ("Shape", "Size")
#: Input sizes whose shape arithmetic is remembered, and the bytes that may cost for one size.
_REMEMBERED, _REMEMBERED_BYTES = 4, 2**26


class Step(NamedTuple):
    """One call: ``function(*slots[inputs], **attributes)`` into the slots ``outputs``.

    ``function`` is ``None`` for a move to the images' device. ``shape_only``: the result follows from the
    input's shape alone. ``freed``: slots that are not read afterwards.
    """

    function: Callable[..., Any] | None
    inputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[int, ...]
    shape_only: bool
    freed: tuple[int, ...] = ()


Slots = list[Tensor | None]


class GraphNetwork(nn.Module):
    """Interpreter of one graph: float32 [N,C,H,W] → logits float32 [N,K].

    Weights are parameters; other float tensors and index tables are buffers; shape data stays on the CPU and
    is computed once for every size of input. A graph of fixed batch size gets its batches cut to that size,
    the last one filled up.
    """

    def __init__(self, entry: proto.Signature) -> None:
        super().__init__()
        self.entry = entry
        self.batch = entry.batch
        self.dtype = torch.float64 if entry.elem_type == onnx.TensorProto.DOUBLE else torch.float32
        self._steps: list[Step] = []
        self._image_steps: list[Step] = []
        self._slots: Slots = [None]  # slot 0: an input that the node leaves out
        self._tensors: list[tuple[int, str]] = []
        self._entry = 0
        self._exit = 0
        #: False when a shape depends on pixel values.
        self._static = True
        self._shapes: dict[tuple[Any, ...], Slots] = {}

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
        key = (*x.shape, x.device)
        known = self._shapes.get(key)
        slots = list(known if known is not None else self._slots)
        for slot, name in self._tensors:
            slots[slot] = getattr(self, name)
        fed = self.entry.fed(x).to(self.dtype)
        half = precision.NARROW.get(self.entry.elem_type)
        slots[self._entry] = fed if half is None else precision.rounded(fed, half)
        if known is not None:
            for step in self._image_steps:
                _call(step, slots, x.device)
        else:
            self._first_run(slots, x.device, key)
        logits = slots[self._exit]
        assert logits is not None
        logits = rows(logits, len(x))
        return self.entry.settled(logits.float().flatten(1) if logits.dim() > 2 else logits.float())

    def _first_run(self, slots: Slots, device: torch.device, key: tuple[Any, ...]) -> None:
        """Run all steps, remembering what the image steps read of the shape arithmetic."""
        wanted = {slot for step in self._image_steps for slot in step.inputs}
        remembered = list(self._slots)
        size = 0
        for step in self._steps:
            if not step.shape_only:
                _call(step, slots, device)
                continue
            with torch.inference_mode(False), torch.no_grad():
                _call(step, slots, device)
            for slot in wanted.intersection(step.outputs):
                value = slots[slot]
                if value is not None:
                    remembered[slot] = value
                    size += value.numel() * value.element_size()
        if self._static and size <= _REMEMBERED_BYTES:
            while len(self._shapes) >= _REMEMBERED:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = remembered


def _call(step: Step, slots: Slots, device: torch.device) -> None:
    values = [slots[slot] for slot in step.inputs]
    result: Any
    if step.function is None:
        result = values[0].to(device) if values[0] is not None else None
    else:
        result = step.function(*values, **step.attributes)
    if isinstance(result, tuple):
        for slot, value in zip(step.outputs, result, strict=False):
            slots[slot] = value
    else:
        slots[step.outputs[0]] = result
    for slot in step.freed:
        slots[slot] = None


def build(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], entry: proto.Signature, manifest: Manifest
) -> tuple[GraphNetwork, dict[str, str]]:
    """Build the network of ``nodes`` (all of them known); also name in the file → parameter name."""
    aliases = _aliases(nodes, manifest)
    inputs = {id(node): [aliases.get(name, name) for name in proto.reads(node)] for node in nodes}
    kept = [node for node in nodes if node.op_type != "Identity"]
    used = {name for node in kept for name in inputs[id(node)]}
    trained = _trainable([(node, inputs[id(node)]) for node in kept], manifest, used)

    weights: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    narrow = {entry.input: precision.NARROW[entry.elem_type]} if entry.elem_type in precision.NARROW else {}
    for name, tensor in proto.stored(model):
        if name in used:
            (weights if name in trained else constants)[name] = _tensor(tensor)
            if tensor.data_type in precision.NARROW:
                narrow[name] = precision.NARROW[tensor.data_type]

    calls = []
    version = proto.opset(model)
    for node in kept:
        if (half := precision.of_node(node, inputs[id(node)], narrow)) is not None:
            narrow.update(dict.fromkeys(node.output, half))
        if node.op_type == "Constant" and node.output[0] in (weights | constants):
            continue
        call = _resolve(node, inputs[id(node)], version)
        if half is not None:
            call = replace(call, function=precision.rounding(node.op_type, call.function, half))
        if all(not name or name in constants for name in call.inputs):
            with torch.no_grad():
                result = call.function(*[constants.get(name) for name in call.inputs], **call.attributes)
            values = result if isinstance(result, tuple) else (result,)
            constants.update(zip(call.outputs, values, strict=False))
        else:
            calls.append(call)

    output = aliases.get(entry.output, entry.output)
    calls = fuse(
        calls, constants, {name: tuple(value.shape) for name, value in weights.items()}, output, narrow
    )
    emitter = _Emitter(GraphNetwork(entry), constants)
    names = {name: emitter.register(name, value, True) for name, value in weights.items()}
    emitter.network._entry = emitter.slot(entry.input)
    for call in calls:
        emitter.emit(call)
    network = emitter.network
    network._exit = emitter.slot(output)
    network._image_steps = [step for step in network._steps if not step.shape_only]
    network._image_steps = _freeing(network._image_steps, network._entry, network._exit)
    network._steps = _freeing(network._steps, network._entry, network._exit)
    for name, first in aliases.items():
        if first in names and name in manifest.tensors:
            names[name] = names[first]
    return network.eval(), names


def _aliases(nodes: Sequence[onnx.NodeProto], manifest: Manifest) -> dict[str, str]:
    """Names that mean an earlier value: tied initializers, outputs of Identity."""
    aliases: dict[str, str] = {}
    for name, address in manifest.tensors.items():
        first = min((name, *(other for other in address.aliases if other in manifest.tensors)))
        if first != name:
            aliases[name] = first
    for node in nodes:
        if node.op_type == "Identity":
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
    return aliases


def _trainable(
    nodes: Sequence[tuple[onnx.NodeProto, list[str]]], manifest: Manifest, used: set[str]
) -> set[str]:
    """Float tensors that weigh something: no statistics, no shapes, no single numbers of Constant nodes."""
    untrained: set[str] = set()
    literal: set[str] = set()
    for node, inputs in nodes:
        positions = UNTRAINED_INPUTS.get(node.op_type, frozenset())
        untrained.update(name for i, name in enumerate(inputs) if i in positions)
        if node.op_type == "Constant":
            literal.add(node.output[0])
    return {
        name
        for name, address in manifest.tensors.items()
        if name in used
        and name not in untrained
        and address.dtype in FLOATS
        and address.shape
        and address.elements > (1 if name in literal else 0)
        and address.writable
    }


def _tensor(stored: onnx.TensorProto) -> Tensor:
    """A stored tensor in the dtype of the computation: half precision becomes float32."""
    array = numpy_helper.to_array(stored)
    if stored.data_type in precision.NARROW:
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C"))


def _resolve(node: onnx.NodeProto, inputs: Sequence[str], version: int) -> Call:
    found = lookup(node.op_type, version)
    assert found is not None, node.op_type
    attributes = {one.name: proto.attribute_value(one) for one in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, onnx.TensorProto):
            attributes[name] = _tensor(value)
    if proto.wants_count(found[1]):
        attributes["outputs"] = len(node.output)
    return Call(node.op_type, found[1], tuple(inputs), tuple(node.output), attributes)


@dataclass
class _Emitter:
    """Turns calls into steps over numbered slots."""

    network: GraphNetwork
    constants: Mapping[str, Tensor]
    slots: dict[str, int] = field(default_factory=dict)
    shape_only: set[str] = field(default_factory=set)

    def slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = len(self.network._slots)
            self.network._slots.append(None)
        return self.slots[name]

    def register(self, name: str, value: Tensor, trained: bool) -> str:
        """Make ``value`` a parameter or a buffer under a name that torch allows."""
        inner = re.sub(r"\W+", "_", name) or "tensor"
        while hasattr(self.network, inner):
            inner += "_"
        if trained:
            self.network.register_parameter(inner, nn.Parameter(value))
        else:
            self.network.register_buffer(inner, value)
        self.network._tensors.append((self.slot(name), inner))
        return inner

    def emit(self, call: Call) -> None:
        on_host = all(not name or name in self.constants or name in self.shape_only for name in call.inputs)
        if on_host or call.operator in _SHAPE_OUTPUTS:
            self.shape_only.update(call.outputs)
        shaping = SHAPE_INPUTS.get(call.operator, frozenset())
        slots = []
        for position, name in enumerate(call.inputs):
            beside_images = not on_host and position not in shaping
            slots.append(self.read(name, beside_images) if name else 0)
            if position in shaping and name not in self.constants and name not in self.shape_only and name:
                self.network._static = False
        outputs = tuple(self.slot(name) for name in call.outputs)
        only = call.outputs[0] in self.shape_only
        self.network._steps.append(Step(call.function, tuple(slots), call.attributes, outputs, only))

    def read(self, name: str, beside_images: bool) -> int:
        """Slot of an input; a constant or a shape used beside the images moves to their device."""
        moving = f"{name}@images"
        if name in self.constants:
            value = self.constants[name]
            if not beside_images or value.dim() == 0:
                self.network._slots[self.slot(name)] = value
                return self.slot(name)
            if moving not in self.slots:
                self.register(moving, value, False)
            return self.slots[moving]
        if not beside_images or name not in self.shape_only:
            return self.slot(name)
        if moving not in self.slots:
            step = Step(None, (self.slot(name),), {}, (self.slot(moving),), True)
            self.network._steps.append(step)
        return self.slots[moving]


def _freeing(steps: Sequence[Step], entry: int, exit: int) -> list[Step]:
    """Note after which step each computed value is read for the last time."""
    computed = {slot for step in steps for slot in step.outputs} | {entry}
    seen = {exit}
    noted = []
    for step in reversed(steps):
        last = (set(step.inputs) | set(step.outputs)) & computed - seen
        seen |= last
        noted.append(step._replace(freed=tuple(sorted(last))))
    return noted[::-1]
