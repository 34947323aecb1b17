"""An ONNX file as protobuf objects: parsed, external tensors inlined, its image input and logits chosen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx.inliner
import torch
from torch import Tensor

from formats import outputs
from formats.errors import Unreadable, Unsupported
from formats.model import InputSpec, Manifest, Source
from formats.onnx import images
from formats.onnx.operators import KNOWN_VALUES, lookup
from formats.onnx.order import in_order

_EXTERNAL = onnx.TensorProto.EXTERNAL
#: Monotone maps that deployments put behind the logits.
_BEHIND_LOGITS = ("Softmax", "LogSoftmax", "Sigmoid", "Identity")
#: Most outputs of which it is asked what they are made of: each time the whole graph is walked.
MOST_OUTPUTS = 16
#: Operators whose function returns all their outputs; of others only the first may be used.
_ALL_OUTPUTS = ("Split", "TopK")


@dataclass(frozen=True)
class Signature:
    """The image input (``shape``: declared dims [N,C,H,W], ``None`` where free; ``axes``: how the file has them), the
    value that holds the logits, and the graph's own output, ``served``, which may be a softmax of it; ``sigmoid``: or
    that. ``softmaxes``: operators of those behind the logits, in their order."""

    input: str
    axes: str
    shape: tuple[int | None, ...]
    elem_type: int
    output: str
    served: str
    sigmoid: bool
    notes: tuple[str, ...]
    softmaxes: tuple[str, ...] = ()

    @property
    def batch(self) -> int | None:
        """Fixed batch size of the graph."""
        return self.shape[0]

    @property
    def spec(self) -> InputSpec:
        """The same, as the rest of the program reads it."""
        batch, channels, height, width = self.shape
        return InputSpec(channels, height, width, batch, "declared", images.is_whole(self.elem_type))

    def fed(self, x: Tensor) -> Tensor:
        """float32 [N,C,H,W] as the graph takes it: axes in its order, whole numbers where it takes those."""
        x = images.arranged(x, self.axes)
        return images.whole(x) if images.is_whole(self.elem_type) else x

    def settled(self, logits: Tensor) -> Tensor:
        """Logits float32 [N,K]; of an image for which the softmax behind them prefers another class, what that makes of
        them: of those that differ too little for float32 it makes equals, and the first of them is answered."""
        behind = logits
        for operator in self.softmaxes:
            behind = behind.softmax(1) if operator == "Softmax" else behind.log_softmax(1)
        return preferred(logits, behind) if self.softmaxes else logits


def preferred(logits: Tensor, behind: Tensor) -> Tensor:
    """Rows of ``logits`` [N,K], and of what stands ``behind`` them where that prefers another class."""
    return torch.where((behind.argmax(1) == logits.argmax(1))[:, None], logits, behind)


@dataclass(frozen=True)
class Unknown:
    """Nodes of one kind that the importer cannot compute."""

    operator: str
    version: int
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(name or "unnamed" for name in self.names)
        return f"{self.operator}-{self.version} ({self.count}x: {where})"


def load(source: Source, manifest: Manifest) -> onnx.ModelProto:
    """Parse the file, put external tensors into it, and expand its own functions.

    Raises ``Unreadable`` when protobuf cannot parse it, ``Unsupported`` when functions cannot be expanded.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(source.data)
    except Exception as error:  # protobuf's DecodeError has no typed home
        raise Unreadable("The ONNX file cannot be parsed; copy or download it again.") from error
    for name, tensor in stored(model):
        if tensor.data_location == _EXTERNAL and name in manifest.tensors:
            address = manifest.tensors[name]
            data = source.files[address.member]
            tensor.raw_data = data[address.offset : address.offset + address.length]
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    if model.functions:  # the gate has bounded what they expand to
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:  # its own checks, which have no common base
            raise Unsupported(f"The ONNX file's functions cannot be expanded: {str(error)[:200]}") from error
        if model.functions:  # a node of such a function would pass for the operator of its name
            raise Unsupported(
                f"The function {model.functions[0].name[:80]!r} of the ONNX file cannot be expanded: it is written in "
                "another version of the operators than the graph."
            )
    return model


def stored(model: onnx.ModelProto) -> list[tuple[str, onnx.TensorProto]]:
    """All stored tensors by the names of the manifest: initializers, and values of Constant nodes."""
    held = [(tensor.name, tensor) for tensor in model.graph.initializer]
    held += [
        (node.output[0], attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return held


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators; files of IR 1 and 2 do not tell and count as 1."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim
    )


def _is_flat(shape: tuple[int | None, ...] | None) -> bool:
    """Whether a value may be [N,K], or [N,K,1,1]."""
    return shape is None or len(shape) == 2 or (len(shape) == 4 and set(shape[2:]) <= {1, None})


def _width(shape: tuple[int | None, ...] | None, batch: int | None) -> int | None:
    """How many numbers a value has for an image; where it lacks an axis, see :func:`formats.outputs.rows`."""
    if not shape or len(shape) > 1:
        return shape[1] if shape else None
    return shape[0] if batch == 1 else 1


def signature(model: onnx.ModelProto, logits: str | None = None) -> Signature:
    """Choose the image input and the logits; ``logits``: name of the output that holds them.

    Raises ``Unsupported`` when the graph has no such, ``Ambiguous`` where several outputs may be.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:4])
        raise Unsupported(f"The ONNX graph has {len(inputs)} inputs ({names}); one image input is needed.")
    entry = inputs[0]
    declared = _dims(entry) or (None,) * 4
    elem_type = entry.type.tensor_type.elem_type
    axes = images.axes_of(graph, entry.name, declared, elem_type)
    shape = images.canonical(declared, axes)
    notes = []
    if axes != images.AXES:
        notes.append(f"The graph takes images as [{','.join(axes)}]; they are given to it so.")
    served = _served(graph, shape[0], logits)
    if len(graph.output) > 1:
        notes.append(outputs.remark(served, [value.name for value in graph.output]))
    output = served
    behind = _behind_logits(graph, served)
    for node in behind:
        if node.op_type != "Identity":
            notes.append(f"The logits are read before the final {node.op_type}.")
        output = node.input[0]
    return Signature(
        entry.name,
        axes,
        shape,
        elem_type,
        output,
        served,
        any(node.op_type == "Sigmoid" for node in behind),
        tuple(notes),
        tuple(node.op_type for node in behind[::-1] if node.op_type.endswith("Softmax")),
    )


def _served(graph: onnx.GraphProto, batch: int | None, logits: str | None) -> str:
    """The graph's output that holds the logits, or a softmax of them."""
    found = {value.name: _dims(value) for value in graph.output if _is_float(value)}
    flat = {name: dims for name, dims in found.items() if _is_flat(dims)}
    flat = flat or {name: dims for name, dims in found.items() if dims is None or len(dims) < 2}
    if not flat:
        raise Unsupported("The ONNX graph has no output of the form [N, classes].")
    widths = {name: _width(dims, batch) for name, dims in flat.items()}
    if logits is not None or len(widths) > MOST_OUTPUTS:
        return outputs.chosen(widths, logits)
    # A softmax and what it is made of are one.
    ends = {name: [name, *(node.input[0] for node in _behind_logits(graph, name))][-1] for name in widths}
    one_each = {end: name for name, end in reversed(ends.items())}
    widths = {name: widths[name] for name in widths if name in one_each.values()}
    made_from = {name: {value for node in live(graph, name) for value in reads(node)} for name in widths}
    return outputs.chosen(widths, None, made_from)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    """Top classes and labels are whole numbers; 0 is unknown."""
    return value.type.tensor_type.elem_type in (0, *images.FLOAT_TYPES)


def _behind_logits(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """From an output backwards, what does not change which class is the highest."""
    producers = {name: node for node in graph.node for name in node.output}
    found: list[onnx.NodeProto] = []
    while (
        output in producers and producers[output].op_type in _BEHIND_LOGITS and len(found) < len(graph.node)
    ):
        found.append(producers[output])
        output = producers[output].input[0]
    return found


def reads(node: onnx.NodeProto) -> list[str]:
    """Inputs of a node; "" where it has none or does not look at it (statistics in training mode)."""
    names = list(node.input)
    if node.op_type == "BatchNormalization" and any(
        one.name == "training_mode" and one.i for one in node.attribute
    ):
        names[3:5] = ["", ""]
    return names


def live(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Nodes that ``output`` depends on, each behind what it reads, otherwise in the order of the file.

    Raises ``Unsupported`` for a name that nothing makes, and for circles.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    wanted, kept = [output], set[int]()
    while wanted:
        index = makers.get(wanted.pop())
        if index is not None and index not in kept:
            kept.add(index)
            wanted += reads(graph.node[index])
    nodes = [graph.node[index] for index in sorted(kept)]
    given = {value.name for value in (*graph.input, *graph.initializer)}
    return [nodes[index] for index in in_order([(reads(node), node.output) for node in nodes], given)]


@cache
def _keywords(function: Callable[..., Any]) -> tuple[frozenset[str], frozenset[str]]:
    """All attributes of an operator's function, and the required ones; torch's own take none."""
    if (function.__module__ or "torch").startswith("torch"):
        return frozenset(), frozenset()
    parameters = [
        one for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY
    ]
    required = frozenset(one.name for one in parameters if one.default is one.empty) - {"outputs"}
    return frozenset(one.name for one in parameters) - {"outputs"}, required


def wants_count(function: Callable[..., Any]) -> bool:
    """Whether an operator's function is told how many outputs its node has."""
    return "outputs" in getattr(function, "__annotations__", {})


def _known(node: onnx.NodeProto, version: int, used: Mapping[str, int]) -> bool:
    found = lookup(node.op_type, version)
    if node.domain not in ("", "ai.onnx") or found is None:
        return False
    accepted, required = _keywords(found[1])
    names = {attribute.name for attribute in node.attribute}
    if not required <= names <= accepted:
        return False
    for attribute in node.attribute:
        values = KNOWN_VALUES.get((node.op_type, attribute.name))
        if values is not None and attribute_value(attribute) not in values:
            return False
    return node.op_type in _ALL_OUTPUTS or not any(used.get(name) for name in node.output[1:])


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """Value of an attribute: numbers, text, lists of them, or a TensorProto."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (str, int, float, onnx.TensorProto)):
        return value
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in value]


def unknown(nodes: Sequence[onnx.NodeProto], version: int) -> list[Unknown]:
    """The one decision on what cannot be imported: all nodes without a function, by operator."""
    used: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            used[name] = used.get(name, 0) + 1
    groups: dict[str, list[str]] = {}
    for node in nodes:
        if not _known(node, version, used):
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
            groups.setdefault(domain + node.op_type, []).append(node.name)
    return [
        Unknown(operator, version, len(names), tuple(names[:3])) for operator, names in sorted(groups.items())
    ]
