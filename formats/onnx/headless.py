"""Graphs that cannot be differentiated here: the head found by reading the graph, the body run by onnxruntime.

Serves unknown operators and quantised graphs. The head is the last Gemm, MatMul (with Add), or Conv of size 1
whose weight is stored, plain or behind a DequantizeLinear; also QGemm, QLinearMatMul and QLinearConv.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from formats.dtypes import DTYPES, FLOATS
from formats.errors import EditError, Unsupported
from formats.model import Edit, Head, Manifest, NewTensor, Source
from formats.onnx import proto
from formats.onnx.patch import patch
from formats.onnx.serving import Session
from formats.ranges import check_fits, stored_bytes
from formats.tensors import TORCH, to_bytes

Floats = NDArray[np.float64]

#: Between the head and the logits: shape changes, rounding to a quantised type, pooling over space.
_VIEWS = ("Identity", "Flatten", "Reshape", "Squeeze", "Cast", "QuantizeLinear", "DequantizeLinear")
_POOLS = ("GlobalAveragePool", "ReduceMean", "QLinearGlobalAveragePool")
_INTEGERS = ("I8", "U8", "I16", "U16", "I32")


@dataclass(frozen=True)
class _Stored:
    """A stored tensor: values = (raw - zero) · scale along ``axis``; scale ``None`` when it is plain."""

    name: str
    raw: NDArray[np.generic]
    scale: Floats | None = None
    zero: Floats | None = None
    axis: int = 1

    def _along(self, numbers: Floats) -> Floats:
        if numbers.size == 1:
            return numbers.reshape(())
        shape = [1] * self.raw.ndim
        shape[self.axis % self.raw.ndim] = -1
        return numbers.reshape(shape)

    def values(self) -> Floats:
        """Dequantised values."""
        raw = self.raw.astype(np.float64)
        if self.scale is None:
            return raw
        zero = self._along(self.zero) if self.zero is not None else 0.0
        return np.asarray((raw - zero) * self._along(self.scale), dtype=np.float64)

    def store(self, values: Floats, dtype: str) -> bytes:
        """``values`` as the file stores them: rounded half to even and clipped when quantised."""
        if self.scale is None:
            if dtype not in FLOATS:
                raise EditError(f"Tensor {self.name!r} is stored as {dtype}, which cannot be edited.")
            return to_bytes(torch.from_numpy(np.ascontiguousarray(values)).to(TORCH[dtype]))
        if dtype not in _INTEGERS:
            raise EditError(f"Tensor {self.name!r} is quantised to {dtype}, which cannot be edited.")
        zero = self._along(self.zero) if self.zero is not None else 0.0
        limits = np.iinfo(np.dtype(DTYPES[dtype].numpy))
        rounded = np.clip(np.rint(values / self._along(self.scale)) + zero, limits.min, limits.max)
        return rounded.astype(limits.dtype).tobytes()


@dataclass(frozen=True)
class _Found:
    """The head in the graph: names of its input and output values, its weight and bias."""

    features: str
    weight: _Stored
    bias: _Stored | None
    layout: Literal["out_in", "in_out", "conv"]
    pooled: bool
    linear: bool
    #: Scale and zero point of quantised features.
    scale: float = 1.0
    zero: float = 0.0


class _Graph:
    """The nodes in front of the logits, by the values they make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.made = {name: node for node in model.graph.node for name in node.output}
        self.held = dict(proto.stored(model))

    def array(self, name: str) -> NDArray[np.generic] | None:
        while name in self.made and self.made[name].op_type == "Identity":
            name = self.made[name].input[0]
        return numpy_helper.to_array(self.held[name]) if name in self.held else None

    def numbers(self, node: onnx.NodeProto, position: int) -> Floats | None:
        """A scale or zero point as float64 [n]; ``None`` when it is absent or not stored."""
        if len(node.input) <= position or not node.input[position]:
            return None
        array = self.array(node.input[position])
        return None if array is None else array.astype(np.float64).reshape(-1)

    def stored(self, name: str) -> _Stored | None:
        node = self.made.get(name)
        while node is not None and node.op_type == "Identity":
            name = node.input[0]
            node = self.made.get(name)
        if name in self.held:
            return _Stored(name, numpy_helper.to_array(self.held[name]))
        if node is None or node.op_type != "DequantizeLinear" or _attribute(node, "block_size", 0):
            return None
        inner, scale = self.stored(node.input[0]), self.numbers(node, 1)
        if inner is None or inner.scale is not None or scale is None:
            return None
        return replace(inner, scale=scale, zero=self.numbers(node, 2), axis=_attribute(node, "axis", 1))

    def quantised(self, node: onnx.NodeProto, position: int, axis: int) -> _Stored | None:
        """A weight of a QLinear operator: raw, scale, zero point in three inputs."""
        array, scale = self.array(node.input[position]), self.numbers(node, position + 1)
        if array is None or scale is None:
            return None
        return _Stored(node.input[position], array, scale, self.numbers(node, position + 2), axis)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.f if attribute.type == onnx.AttributeProto.FLOAT else attribute.i)
    return default


def _find(model: onnx.ModelProto, output: str) -> _Found | None:
    """Walk from the logits back to the last linear map with a stored weight."""
    graph = _Graph(model)
    name, bias = output, None
    pooled, linear = False, True
    while (node := graph.made.get(name)) is not None:
        operator = node.op_type
        if operator in ("Gemm", "MatMul", "Conv", "QGemm", "QLinearMatMul", "QLinearConv"):
            return _head(graph, node, bias, pooled, linear)
        if operator == "Add" and bias is None:
            sides = [graph.stored(one) for one in node.input]
            chosen = next((i for i, side in enumerate(sides) if side is not None), None)
            if chosen is None:
                return None
            bias, name = sides[chosen], node.input[1 - chosen]
        elif operator in _VIEWS or operator in _POOLS:
            pooled = pooled or operator in _POOLS
            name = node.input[0]
        elif operator in ("Relu", "Clip"):
            linear, name = False, node.input[0]
        else:
            return None
    return None


def _head(
    graph: _Graph, node: onnx.NodeProto, bias: _Stored | None, pooled: bool, linear: bool
) -> _Found | None:
    kind = node.op_type
    layout: Literal["out_in", "in_out", "conv"] = "conv" if kind.endswith("Conv") else "in_out"
    if kind.endswith("Gemm"):
        if _attribute(node, "transA", 0) or _attribute(node, "alpha", 1) != 1:
            return None
        layout = "out_in" if _attribute(node, "transB", 0) else "in_out"
    scale = zero = None
    if kind in ("Gemm", "MatMul", "Conv"):
        weight = graph.stored(node.input[1])
        if len(node.input) > 2 and node.input[2]:
            own = graph.stored(node.input[2])
            if own is None or bias is not None or _attribute(node, "beta", 1) != 1:
                return None
            bias = own
    else:
        weight = graph.quantised(node, 3, 1 if layout == "in_out" else 0)
        scale, zero = graph.numbers(node, 1), graph.numbers(node, 2)
        at = {"QGemm": 6, "QLinearConv": 8, "QLinearMatMul": 99}[kind]
        array = graph.array(node.input[at]) if len(node.input) > at and node.input[at] else None
        if weight is None or scale is None:
            return None
        if array is not None and weight.scale is not None:
            bias = _Stored(node.input[at], array, scale * weight.scale, None, 0)
    if weight is None or weight.raw.ndim != (4 if layout == "conv" else 2):
        return None
    if layout == "conv" and weight.raw.shape[2:] != (1, 1):
        return None
    return _Found(
        node.input[0], weight, bias, layout, pooled, linear,
        float(scale[0]) if scale is not None else 1.0, float(zero[0]) if zero is not None else 0.0,
    )  # fmt: skip


class HeadRuntime:
    """A graph run by onnxruntime, of which only the head can be read and replaced.

    ``head`` describes it; weights in int8 keep their scales and zero points when they are replaced.
    """

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source, self._manifest = source, manifest
        model = proto.load(source, manifest)
        entry = proto.signature(model, source.logits)
        found = _find(model, entry.output)
        if found is None or found.weight.name not in manifest.tensors:
            raise Unsupported("No last linear layer with stored weights was found in front of the logits.")
        self._found = found
        self._session, self._entry = Session(model, entry, [found.features, entry.output]), entry
        classes = found.weight.raw.shape[1 if found.layout == "in_out" else 0]
        self.head = Head(
            found.weight.name,
            found.bias.name if found.bias is not None else None,
            found.weight.raw.size // classes,
            classes,
            found.layout,
            found.linear,
        )

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` float32 [N,C,H,W], normalised → features [N,D], logits [N,K], float32 on the CPU.

        Features of a Conv head are averaged over space, those of a head on tokens over the tokens.
        """
        features, logits = self._session(x)
        features = (features.float() - self._found.zero) * self._found.scale
        if self._found.layout == "conv":
            features = features.flatten(2).mean(2)
        logits = self._entry.settled(logits.float().flatten(1))
        return features.reshape(len(features), -1, self.head.units).mean(1), logits

    def head_values(self) -> tuple[Tensor, Tensor]:
        """(weight [K,D], bias [K]) float32, dequantised; bias 0 when the file has none."""
        weight = self._found.weight.values()
        weight = weight.T if self._found.layout == "in_out" else weight.reshape(self.head.classes, -1)
        bias = np.zeros(self.head.classes)
        if self._found.bias is not None:
            bias = self._found.bias.values().reshape(-1)
        return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32))

    def head_edit(self, weight: Tensor, bias: Tensor | None) -> Edit:
        """New head values in the file's own types; scales unchanged; unchanged tensors are left out.

        Raises :class:`EditError` for types that cannot be edited.
        """
        parts = [(self._found.weight, weight.T if self._found.layout == "in_out" else weight)]
        if bias is not None and self._found.bias is not None:
            parts.append((self._found.bias, bias))
        changed = {}
        for stored, values in parts:
            address = self._manifest.tensors[stored.name]
            new = values.detach().cpu().double().numpy().reshape(stored.raw.shape)
            data = stored.store(new, address.dtype)
            if data != stored_bytes(self._source, address):
                changed[stored.name] = NewTensor(address.dtype, address.shape, data)
        return Edit(changed)

    def with_edit(self, edit: Edit) -> HeadRuntime:
        """The same runtime over the edited file."""
        check_fits(self._manifest, edit)
        return HeadRuntime(self._source.rewritten(patch(self._source, self._manifest, edit)), self._manifest)
