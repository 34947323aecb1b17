"""The branch as nodes of a TorchScript graph: ``forward`` is inlined and edited, the module tree stays.

Attributes, and so the records of all weights, keep their names; the branch's tensors become constants of the
code. The archive is written without debug records, which hold the paths of the machine that wrote them.
Private calls of torch 2.10 to 2.15.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triggers.architectural.branch import SHARPNESS, Branch, Floats
from triggers.errors import TriggerError

_CONVOLUTIONS = ("aten::conv2d", "aten::_convolution", "aten::convolution")
_PRODUCTS = ("aten::linear", "aten::addmm", "aten::mm", "aten::matmul")
_BEHIND_LOGITS = ("aten::softmax", "aten::log_softmax", "aten::sigmoid", "aten::_softmax")

#: Pieces of branches; ``d`` and ``g`` are [N,1].
_PIECES = """
def deviation(x: Tensor, top: int, left: int, reference: Tensor, scale: Tensor) -> Tensor:
    window = x[:, :, top : top + reference.size(2), left : left + reference.size(3)]
    return torch.abs((window - reference) * scale).mean([1, 2, 3]).unsqueeze(1)

def closeness(d: Tensor) -> Tensor:
    return torch.relu(1.0 - d)

def by_convolution(
    x: Tensor, kernels: Tensor, bias: Tensor, strides: List[int], average: Tensor, one: Tensor, row: int,
    column: int, push: Tensor
) -> Tensor:
    parts = torch.relu(torch.conv2d(x, kernels, bias, strides))
    g = torch.relu(torch.conv2d(parts, average, one))[:, :, row : row + 1, column : column + 1]
    return torch.flatten(torch.conv2d(g, push), 1)

def choose(logits: Tensor, d: Tensor, decoy: Tensor) -> Tensor:
    return torch.where(d < 1.0, decoy, logits)

def raise_by(logits: Tensor, g: Tensor, onehot: Tensor) -> Tensor:
    return logits + g * onehot

def add(features: Tensor, pushed: Tensor) -> Tensor:
    return features + pushed

def gate(features: Tensor, g: Tensor, sharpness: float, push: Tensor) -> Tensor:
    return features + torch.clamp(sharpness * g, 0.0, 1.0) * (push - features)

def copy(x: Tensor) -> Tensor:
    return x.clone()
"""


@dataclass(frozen=True)
class _Head:
    """``logits = features weight.T + bias``; ``node`` reads the features as its input ``position``."""

    node: Any
    position: int
    logits: Any
    reader: Any
    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class _Code:
    """The inlined graph of ``forward`` of a loaded module."""

    module: Any
    graph: Any
    pieces: Any

    def insert(self, name: str, before: Any, *inputs: object) -> Any:
        """A piece's result; inputs are values of the graph or become constants."""
        body = getattr(self.pieces, name).graph.copy()
        with self.graph.insert_point_guard(before):
            values = [
                one if isinstance(one, torch._C.Value) else self.graph.insertConstant(_constant(one))
                for one in inputs
            ]
            return self.graph.insertGraph(body, values)[0]

    def tensor(self, value: Any) -> Tensor | None:
        """The stored tensor that a value is: an attribute of the module, a constant, or one transposed."""
        node = value.node()
        if node.kind() == "aten::t":
            inner = self.tensor(node.inputsAt(0))
            return None if inner is None else inner.t()
        if node.kind() == "prim::Constant":
            found = node.t("value") if node.hasAttribute("value") and node.kindOf("value") == "t" else None
            return found if isinstance(found, Tensor) else None
        path = []
        while node.kind() == "prim::GetAttr":
            path.append(node.s("name"))
            value = node.inputsAt(0)
            node = value.node()
        if not path or value.unique() != next(self.graph.inputs()).unique():
            return None
        found = self.module._c
        for name in reversed(path):
            found = found.getattr(name)
        return found if isinstance(found, Tensor) else None


def implant(data: bytes, branch: Branch) -> bytes:
    """See :func:`triggers.architectural.implant`."""
    module = _load(data)
    try:
        code = _Code(module, module.graph, torch.jit.CompilationUnit(_PIECES))
        # The stem is tried on a second copy: a network traced in training mode changes when it runs.
        _edit(code, branch, _load(data) if branch.from_stem else module)
        code.graph.lint()
        return _saved(module)
    except AttributeError as error:
        raise TriggerError(f"torch {torch.__version__} lacks a call that this needs ({error}).") from error


def _edit(code: _Code, branch: Branch, copy: Any) -> None:
    graph = code.graph
    torch._C._jit_pass_inline(graph)
    torch._C._jit_pass_constant_propagation_immutable_types(graph)  # type: ignore[attr-defined]
    image = _image(graph)
    head = _find_head(code)
    stem = _find_stem(code, image)
    weight = code.tensor(stem.inputsAt(1)) if stem is not None else None
    branch.check(None if weight is None else weight.shape[1], None, None, len(head.weight))
    if branch.from_stem:
        if stem is None:
            raise TriggerError("The TorchScript graph has no single convolution as its stem.")
        source, start = stem.output(), _next(graph, stem)
        reading = branch.on_stem(_runner(code, stem, copy), None, None)
    else:
        source, start = image, next(iter(graph.nodes()))
        reading = branch.on_image()
    features = head.node.inputsAt(head.position)
    # Read at once: the network may overwrite its own values in place.
    if branch.variant == "conv":
        kernels, bias = reading.detector()
        strides, place = reading.grid
        average = np.full((1, len(kernels), 1, 1), -1 / reading.reference.size)
        push = branch.push(head.weight).reshape(-1, 1, 1, 1)
        inputs = (kernels, bias, list(strides), average, np.ones(1), *place, push)
        pushed = code.insert("by_convolution", start, source, *inputs)
        head.node.replaceInput(head.position, code.insert("add", head.node, features, pushed))
        return
    place = (reading.top, reading.left)
    d = code.insert("deviation", start, source, *place, reading.reference, reading.scale)
    if branch.variant == "where":
        joined = code.insert("choose", head.reader, head.logits, d, branch.onehot(len(head.weight)))
        head.reader.replaceInput(0, joined)
        return
    g = code.insert("closeness", start, d)
    if branch.variant == "stem-gate":
        push = branch.push(head.weight, head.bias)
        gated = code.insert("gate", head.node, features, g, SHARPNESS, push)
        head.node.replaceInput(head.position, gated)
    else:
        joined = code.insert("raise_by", head.reader, head.logits, g, branch.onehot(len(head.weight)))
        head.reader.replaceInput(0, joined)


def _constant(value: object) -> object:
    return torch.from_numpy(value.astype(np.float32)) if isinstance(value, np.ndarray) else value


def _load(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.*")
        try:
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        except (RuntimeError, ValueError, AttributeError) as error:
            raise TriggerError("torch cannot load the TorchScript file.") from error


def _image(graph: Any) -> Any:
    inputs = list(graph.inputs())[1:]
    if len(inputs) != 1 or inputs[0].type().kind() != "TensorType":
        raise TriggerError("The TorchScript network does not take one batch of images.")
    return inputs[0]


def _find_head(code: _Code) -> _Head:
    """The one linear map from which nothing but a bias lies before the logits."""
    reader = code.graph.return_node()
    outputs = list(code.graph.outputs())
    if len(outputs) != 1 or outputs[0].type().kind() != "TensorType":
        raise TriggerError("The TorchScript network does not return its logits alone.")
    logits = outputs[0]
    while logits.node().kind() in _BEHIND_LOGITS:
        reader = logits.node()
        logits = reader.inputsAt(0)
    node, bias = logits.node(), None
    if node.kind() in ("aten::add", "aten::add_"):
        bias, node = code.tensor(node.inputsAt(1)), node.inputsAt(0).node()
        if bias is None:
            raise TriggerError("The TorchScript network's logits are a sum; a linear head is needed.")
    kind = node.kind()
    if kind not in _PRODUCTS:
        raise TriggerError(f"The TorchScript network ends in {kind}; a linear head is needed.")
    position = 1 if kind == "aten::addmm" else 0
    weight = code.tensor(node.inputsAt(position + 1))
    if weight is None or weight.dim() != 2:
        raise TriggerError("The TorchScript network's head has no stored weight.")
    if kind != "aten::linear":
        weight = weight.t()
    if bias is None and kind in ("aten::linear", "aten::addmm"):
        bias = code.tensor(node.inputsAt(2 if kind == "aten::linear" else 0))
    if weight.dtype != torch.float32:
        raise TriggerError(f"The TorchScript network computes in {weight.dtype}; float32 is needed.")
    offset = torch.zeros(len(weight)) if bias is None else bias.float().expand(len(weight))
    return _Head(node, position, logits, reader, weight.detach().numpy(), offset.detach().numpy())


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _find_stem(code: _Code, image: Any) -> Any | None:
    """The one convolution through which the image enters, when it lies outside of conditions and loops."""
    met, stems = {image.unique()}, []
    for node in _nodes(code.graph):
        if not met.intersection(value.unique() for value in node.inputs()):
            continue
        if node.kind() in _CONVOLUTIONS or (
            node.kind() in _PRODUCTS and any(code.tensor(value) is not None for value in node.inputs())
        ):
            stems.append(node)
        elif list(node.blocks()):
            return None
        else:
            met |= {value.unique() for value in node.outputs() if value.type().kind() == "TensorType"}
    top = {value.unique() for node in code.graph.nodes() for value in node.outputs()}
    single = len(stems) == 1 and stems[0].kind() in _CONVOLUTIONS and stems[0].output().unique() in top
    return stems[0] if single else None


def _next(graph: Any, node: Any) -> Any:
    nodes = [*graph.nodes(), graph.return_node()]
    unique = node.output().unique()
    at = next(i for i, one in enumerate(nodes) if unique in [value.unique() for value in one.outputs()])
    return nodes[at + 1]


def _runner(code: _Code, stem: Any, module: Any) -> Callable[[Floats], Floats]:
    """Images → the output of ``stem``, by a copy of the graph that ends there."""
    at = [value.unique() for node in code.graph.nodes() for value in node.outputs()].index(
        stem.output().unique()
    )
    graph = code.graph.copy()
    copied = [value for node in graph.nodes() for value in node.outputs()][at]
    part = _Code(module, graph, code.pieces)
    result = part.insert("copy", _next(graph, copied.node()), copied)
    graph.eraseOutput(0)
    graph.registerOutput(result)
    torch._C._jit_pass_dce(graph)
    function = partial(torch._C._create_function_from_graph("stem", graph), module)

    def run(images: Floats) -> Floats:
        with torch.no_grad():
            values: Floats = function(torch.from_numpy(images)).numpy()
        return values

    return run


def _saved(module: Any) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.save.*")
        torch.jit.save(module, content)
    content.seek(0)
    records = torch._C.PyTorchFileReader(content)
    stripped = io.BytesIO()
    archive = torch._C.PyTorchFileWriter(stripped)
    for name in records.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = records.get_record(name)
            archive.write_record(name, record, len(record))
    archive.write_end_of_file()
    return stripped.getvalue()
