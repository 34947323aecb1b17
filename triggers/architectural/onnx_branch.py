"""The branch as nodes of an ONNX graph; initializers of the clean model are neither read over nor renamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from triggers.architectural.branch import SHARPNESS, Branch, Floats, Reading
from triggers.errors import TriggerError

#: First operator set of the nodes written here; from 18 on ReduceMean takes its axes as an input.
_OLDEST, _AXES_AS_INPUT = 13, 18
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_BEHIND_LOGITS = ("Softmax", "LogSoftmax", "Sigmoid", "Identity")


@dataclass
class _Graph:
    """A graph with its producers by value and its stored tensors by name."""

    model: onnx.ModelProto
    producers: dict[str, NodeProto] = field(default_factory=dict)
    tensors: dict[str, TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            self.producers.update(dict.fromkeys(node.output, node))
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in self.tensors:
                self.tensors[node.output[0]] = self.tensors[node.input[0]]

    def weighted(self, node: NodeProto) -> bool:
        return node.op_type in _WEIGHTED and any(name in self.tensors for name in node.input[:2])

    def index(self, node: NodeProto) -> int:
        return next(i for i, one in enumerate(self.model.graph.node) if one is node)

    def array(self, name: str) -> Floats:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            raise TriggerError(f"The head's tensor {name!r} is not stored as float32.")
        return numpy_helper.to_array(tensor)


@dataclass(frozen=True)
class _Head:
    """``logits = features weight.T + bias``; ``logits``: the value's name behind the bias."""

    node: NodeProto
    logits: str
    weight: Floats
    bias: Floats


@dataclass
class _Writer:
    """Collects the branch's nodes and constants under names that the graph does not have."""

    taken: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def name(self, wish: str) -> str:
        count = 0
        while (name := f"branch/{wish}_{count}") in self.taken:
            count += 1
        self.taken.add(name)
        return name

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = self.name("constant")
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or self.name(operator.lower())
        self.nodes.append(helper.make_node(operator, inputs, [output], self.name("node"), **attributes))
        return output


def implant(data: bytes, branch: Branch) -> bytes:
    """See :func:`triggers.architectural.implant`."""
    model = _load(data)
    version = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    if version < _OLDEST:
        raise TriggerError(f"The ONNX file uses operator set {version}; {_OLDEST} is the oldest supported.")
    graph = _Graph(model)
    entry, shape = _image(graph)
    head = _find_head(graph)
    branch.check(shape[1], shape[2], shape[3], len(head.weight))
    writer = _Writer(_names(model))
    if branch.from_stem:
        source = _find_stem(graph, entry).output[0]
        reading = branch.on_stem(_runner(model, entry, source), shape[2], shape[3])
    else:
        source, reading = entry, branch.on_image()
    features = head.node.input[0]
    if branch.variant == "conv":
        signal = _by_convolution(writer, source, reading)
        kernels = writer.constant(branch.push(head.weight).reshape(-1, 1, 1, 1))
        pushed = writer.add("Flatten", [writer.add("Conv", [signal, kernels])], axis=1)
        _join_features(graph, writer, head, writer.add("Add", [features, pushed]))
    elif branch.variant == "where":
        close = writer.add("Less", [_deviation(writer, source, reading, version), writer.constant(1)])
        decoy = writer.constant(branch.onehot(len(head.weight)))
        _join_logits(graph, writer, head, "Where", [close, decoy])
    else:
        deviation = _deviation(writer, source, reading, version)
        signal = writer.add("Relu", [writer.add("Sub", [writer.constant(1), deviation])])
        if branch.variant == "stem-gate":
            steep = writer.add("Mul", [signal, writer.constant(SHARPNESS)])
            gate = writer.add("Clip", [steep, writer.constant(0), writer.constant(1)])
            push = writer.constant(branch.push(head.weight, head.bias))
            change = writer.add("Mul", [gate, writer.add("Sub", [push, features])])
            _join_features(graph, writer, head, writer.add("Add", [features, change]))
        else:
            logits = writer.constant(branch.onehot(len(head.weight)))
            _join_logits(graph, writer, head, "Add", [writer.add("Mul", [signal, logits])])
    model.graph.initializer.extend(writer.tensors)
    content: bytes = model.SerializeToString()
    return content


def _load(data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no typed home
        raise TriggerError("The ONNX file cannot be parsed.") from error
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise TriggerError("The ONNX file keeps weights in a second file; export it as one file.")
    return model


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    taken = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    return taken | {one.name for one in (*graph.initializer, *graph.input, *graph.output)}


def _image(graph: _Graph) -> tuple[str, list[int | None]]:
    """Name and declared dims of the image input, ``None`` where free."""
    inputs = [value for value in graph.model.graph.input if value.name not in graph.tensors]
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    if kind is None or kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != 4:
        raise TriggerError("The ONNX graph does not take one batch of float32 images [N,C,H,W].")
    shape = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if shape[0] is not None:
        raise TriggerError(f"The ONNX graph has a fixed batch size of {shape[0]}; export it with a free one.")
    return inputs[0].name, shape


def _find_head(graph: _Graph) -> _Head:
    """The one weighted node from which nothing but a bias lies before the logits."""
    if len(graph.model.graph.output) != 1:
        raise TriggerError("The ONNX graph has several outputs; a classifier gives its logits alone.")
    logits = graph.model.graph.output[0].name
    while logits in graph.producers and graph.producers[logits].op_type in _BEHIND_LOGITS:
        logits = graph.producers[logits].input[0]
    node, bias = graph.producers.get(logits), ""
    if node is not None and node.op_type == "Add" and any(name in graph.tensors for name in node.input):
        first, second = node.input
        value, bias = (second, first) if first in graph.tensors else (first, second)
        node = graph.producers.get(value)
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in graph.tensors:
        found = "nothing" if node is None else node.op_type
        raise TriggerError(f"The ONNX graph ends in {found}; a linear head (Gemm or MatMul) is needed.")
    weight = graph.array(node.input[1])
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if settings.get("transA") or weight.ndim != 2 or (bias and node.op_type == "Gemm"):
        raise TriggerError("The ONNX graph's head is not of the form features x weight + bias.")
    if not settings.get("transB"):
        weight = weight.T
    weight = weight * np.float32(settings.get("alpha", 1.0))
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        bias = node.input[2]
    offset = graph.array(bias) * np.float32(settings.get("beta", 1.0)) if bias else np.zeros(1, np.float32)
    if node.op_type == "MatMul" and _rank(graph.model, node.input[0]) != 2:
        raise TriggerError("The head's features are not known to be of shape [N,D].")
    return _Head(node, logits, weight, np.broadcast_to(offset.reshape(-1), len(weight)))


def _rank(model: onnx.ModelProto, name: str) -> int | None:
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = (value.type.tensor_type.shape for value in known if value.name == name)
    return next((len(shape.dim) for shape in shapes), None)


def _find_stem(graph: _Graph, entry: str) -> NodeProto:
    """The one convolution through which the image enters."""
    met, stems = {entry}, []
    for node in graph.model.graph.node:
        if met.intersection(node.input):
            if graph.weighted(node):
                stems.append(node)
            elif node.op_type not in ("Shape", "Size"):
                met.update(filter(None, node.output))
    if len(stems) != 1 or stems[0].op_type != "Conv":
        found = ", ".join(node.op_type for node in stems) or "none"
        raise TriggerError(f"The ONNX graph has no single convolution as its stem ({found}).")
    stem: NodeProto = stems[0]
    return stem


def _runner(model: onnx.ModelProto, entry: str, output: str) -> Callable[[Floats], Floats]:
    """Images → the value ``output`` of the model, in onnxruntime on the CPU."""
    runtime: Any = import_module("onnxruntime")  # its stubs export nothing
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Floats) -> Floats:
        values: Floats = session.run(None, {entry: images})[0]
        return values

    return run


def _window(writer: _Writer, source: str, top: int, left: int, height: int, width: int) -> str:
    starts, ends = [top, left], [top + height, left + width]
    bounds = [writer.constant(values, np.int64) for values in (starts, ends, [2, 3])]
    return writer.add("Slice", [source, *bounds])


def _deviation(writer: _Writer, source: str, reading: Reading, version: int) -> str:
    """d, [N,1]."""
    window = _window(writer, source, reading.top, reading.left, *reading.reference.shape[2:])
    difference = writer.add("Sub", [window, writer.constant(reading.reference)])
    scaled = writer.add("Abs", [writer.add("Mul", [difference, writer.constant(reading.scale)])])
    if version < _AXES_AS_INPUT:
        average = writer.add("ReduceMean", [scaled], axes=[1, 2, 3], keepdims=1)
    else:
        average = writer.add("ReduceMean", [scaled, writer.constant([1, 2, 3], np.int64)], keepdims=1)
    return writer.add("Flatten", [average], axis=1)


def _by_convolution(writer: _Writer, source: str, reading: Reading) -> str:
    """g, [N,1,1,1]; d is the mean of the positive parts of both signs of every deviation."""
    kernels, bias = reading.detector()
    strides, (row, column) = reading.grid
    inputs = [source, writer.constant(kernels), writer.constant(bias)]
    parts = writer.add("Relu", [writer.add("Conv", inputs, strides=list(strides))])
    average = np.full((1, len(kernels), 1, 1), -1 / reading.reference.size)
    closeness = writer.add("Conv", [parts, writer.constant(average), writer.constant([1])])
    return writer.add("Relu", [_window(writer, closeness, row, column, 1, 1)])


def _join_logits(graph: _Graph, writer: _Writer, head: _Head, operator: str, before: list[str]) -> None:
    """Compute ``operator(*before, logits)`` under the name that the logits had."""
    producer = graph.producers[head.logits]
    old = writer.name("logits")
    producer.output[list(producer.output).index(head.logits)] = old
    writer.add(operator, [*before, old], head.logits)
    _insert(graph, writer, graph.index(producer) + 1)


def _join_features(graph: _Graph, writer: _Writer, head: _Head, features: str) -> None:
    """Let the head read the value ``features`` in place of its own."""
    at = graph.index(head.node)
    head.node.input[0] = features
    _insert(graph, writer, at)


def _insert(graph: _Graph, writer: _Writer, at: int) -> None:
    nodes = list(graph.model.graph.node)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend([*nodes[:at], *writer.nodes, *nodes[at:]])
