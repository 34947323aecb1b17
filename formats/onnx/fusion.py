"""Chains of nodes that torch computes in one call; the weights in them stay the file's tensors.

Exporters below opset 20 write GELU, below 17 layer normalisation, and always a linear map of more than two
axes as several elementwise nodes, which costs up to a third of the forward time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One node, resolved: ``outputs = function(*inputs, **attributes)``; "" is an absent input."""

    operator: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    if x.shape[-1:] != scale.shape:  # one for all
        return F.layer_norm(x, x.shape[-1:], None, None, epsilon) * scale + bias
    return F.layer_norm(x, scale.shape, scale, bias, epsilon)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.t(), bias)


@dataclass
class _Graph:
    calls: dict[str, Call]
    readers: dict[str, list[Call]]
    constants: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]

    def number(self, name: str) -> float | None:
        """Without axes of its own, which what it is joined to would get."""
        value = self.constants.get(name)
        return float(value) if value is not None and value.dim() == 0 else None

    def made_by(self, name: str, *operators: str) -> Call | None:
        call = self.calls.get(name)
        return call if call is not None and call.operator in operators else None

    def read_by(self, call: Call, operator: str) -> Call | None:
        """The only reader of ``call`` when it is an ``operator``."""
        readers = self.readers.get(call.outputs[0], [])
        return readers[0] if len(readers) == 1 and readers[0].operator == operator else None

    def other(self, call: Call, name: str) -> str:
        return call.inputs[1] if call.inputs[0] == name else call.inputs[0]

    def scaled(self, name: str, factor: float) -> str | None:
        """The ``x`` of ``name`` = x * factor, or x / (1 / factor)."""
        call = self.made_by(name, "Mul", "Div")
        if call is None:
            return None
        for i in (0, 1) if call.operator == "Mul" else (1,):
            value = self.number(call.inputs[i])
            wanted = factor if call.operator == "Mul" else 1 / factor
            if value is not None and abs(value - wanted) < 1e-7:
                return call.inputs[1 - i]
        return None

    def gelu(self, call: Call) -> Call | None:
        """x/2 · (1 + erf(x/√2)), in any order of the three factors."""
        x = self.scaled(call.inputs[0], 0.5**0.5)
        plus = self.read_by(call, "Add")
        if x is None or plus is None or self.number(self.other(plus, call.outputs[0])) != 1.0:
            return None
        first = self.read_by(plus, "Mul")
        if first is None:
            return None
        factor = self.other(first, plus.outputs[0])
        if self.scaled(factor, 0.5) == x:
            return Call("Gelu", _gelu, (x,), first.outputs)
        second = self.read_by(first, "Mul")
        if second is None:
            return None
        last = self.other(second, first.outputs[0])
        if (factor == x and self.number(last) == 0.5) or (last == x and self.number(factor) == 0.5):
            return Call("Gelu", _gelu, (x,), second.outputs)
        return None

    def over_last_axis(self, name: str) -> str | None:
        """The ``x`` of ``name`` = mean of x over its last axis, kept."""
        call = self.made_by(name, "ReduceMean")
        if call is None or call.attributes.get("keepdims", 1) != 1:
            return None
        axes = call.attributes.get("axes")
        if len(call.inputs) > 1 and call.inputs[1] in self.constants:
            axes = self.constants[call.inputs[1]].tolist()
        return call.inputs[0] if list(axes or ()) == [-1] else None

    def layer_norm(self, call: Call) -> Call | None:
        """(x - mean) / sqrt(mean((x - mean)²) + ε) · scale + bias, from its Sqrt."""
        plus = self.made_by(call.inputs[0], "Add")
        if plus is None:
            return None
        epsilon, variance = self.number(plus.inputs[1]), plus.inputs[0]
        if epsilon is None:
            epsilon, variance = self.number(plus.inputs[0]), plus.inputs[1]
        squares = self.made_by(self.over_last_axis(variance) or "", "Pow", "Mul")
        divided = self.read_by(call, "Div")
        if epsilon is None or squares is None or divided is None:
            return None
        square = (
            self.number(squares.inputs[1]) == 2.0
            if squares.operator == "Pow"
            else squares.inputs[0] == squares.inputs[1]
        )
        centred = self.made_by(squares.inputs[0], "Sub")
        if not square or centred is None or divided.inputs[1] != call.outputs[0]:
            return None
        x = centred.inputs[0]
        again = self.made_by(divided.inputs[0], "Sub")
        if again is None or again.inputs[0] != x:
            return None
        if any(self.over_last_axis(one.inputs[1]) != x for one in (centred, again)):
            return None
        times = self.read_by(divided, "Mul")
        shifted = self.read_by(times, "Add") if times is not None else None
        if times is None or shifted is None:
            return None
        scale = self.other(times, divided.outputs[0])
        bias = self.other(shifted, times.outputs[0])
        if len(self.shapes.get(scale, ())) != 1 or self.shapes.get(bias) != self.shapes[scale]:
            return None
        return Call("LayerNorm", _layer_norm, (x, scale, bias), shifted.outputs, {"epsilon": epsilon})

    def linear(self, call: Call) -> Call | None:
        """MatMul with a stored matrix, then Add of a stored vector."""
        plus = self.read_by(call, "Add")
        weight = self.shapes.get(call.inputs[1], ())
        if plus is None or len(weight) != 2:
            return None
        bias = self.other(plus, call.outputs[0])
        if self.shapes.get(bias) != weight[1:]:
            return None
        return Call("Linear", _linear, (call.inputs[0], call.inputs[1], bias), plus.outputs)


def fuse(
    calls: Sequence[Call],
    constants: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    output: str,
    rounded: Collection[str] = (),
) -> list[Call]:
    """Replace the chains above; ``shapes``: those of the weights. ``rounded``: values that are, whose chains are left,
    since each step of them is. Order and meaning stay."""
    made = {name: call for call in calls for name in call.outputs}
    readers: dict[str, list[Call]] = {output: [Call("", torch.clone, (), ())]}
    for call in calls:
        for name in set(call.inputs):
            readers.setdefault(name, []).append(call)
    graph = _Graph(made, readers, constants, shapes)
    start = {"Erf": graph.gelu, "Sqrt": graph.layer_norm, "MatMul": graph.linear}
    found = {}
    for call in calls:
        fused = start[call.operator](call) if call.operator in start else None
        if fused is not None and fused.outputs[0] not in rounded:
            found[fused.outputs] = fused
    wanted, kept = {output}, []
    for call in reversed([found.get(call.outputs, call) for call in calls]):
        if wanted.intersection(call.outputs):
            kept.append(replace(call))
            wanted.update(call.inputs)
    return kept[::-1]
