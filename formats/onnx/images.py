"""How an ONNX graph takes its images: which axis is which, one at a time or many, as fractions or as whole numbers.

Exporters of Keras put the channels last, apps give the bytes of a picture and scale them in the graph. To the rest of
the program every network takes float32 [N,C,H,W]; what is here turns those into what the file asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from torch import Tensor

from formats.dtypes import DTYPES, FLOATS
from formats.errors import Unsupported

Shape = tuple[int | None, ...]

#: Axes of every network here, and numbers of channels that pictures have.
AXES, _CHANNELS = "NCHW", (1, 3)
FLOAT_TYPES = tuple(DTYPES[name].onnx for name in FLOATS)
_WHOLE = (onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64)
#: What stands between the input and the transposition that shows where its channels are.
_BEFORE = (
    "Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Identity", "Mul", "Pad", "QuantizeLinear",
    "Slice", "Sub",
)  # fmt: skip
#: Operators that leave whole numbers as they are.
_MOVES = (
    "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


def is_whole(elem_type: int) -> bool:
    """Whether a graph of this input takes the numbers 0 to 255 of a picture, to be scaled in it."""
    return elem_type in _WHOLE


def axes_of(graph: onnx.GraphProto, name: str, shape: Shape, elem_type: int) -> str:
    """The axes of the input ``name``, e.g. "NCHW", "NHWC" or "HWC"; raises ``Unsupported`` where it is no picture.

    Channels are where the shape has 1 or 3; where that is open, or true of both ends, a transposition tells.
    """
    if elem_type in (*FLOAT_TYPES, *_WHOLE) and len(shape) == 4:
        if _is_count(shape[3]) and not _is_count(shape[1]) and (shape[1] is None or shape[1] > 4):
            return "NHWC"
        told = _is_count(shape[1]) != _is_count(shape[3]) or shape[1] is not None
        return "NHWC" if not told and _transposed(graph, name, 4) == [0, 3, 1, 2] else "NCHW"
    if elem_type in (*FLOAT_TYPES, *_WHOLE) and len(shape) == 3:
        if _is_count(shape[0]) != _is_count(shape[2]):
            return "CHW" if _is_count(shape[0]) else "HWC"
        return "HWC" if _transposed(graph, name, 3) == [2, 0, 1] else "CHW" if _is_count(shape[0]) else "NHW"
    raise Unsupported(
        f"The ONNX graph's input {name!r} is {onnx.TensorProto.DataType.Name(elem_type)}"
        f"{[size or '?' for size in shape]}; images as floats or bytes, [N,C,H,W] or with channels last, are needed."
    )


def _is_count(size: int | None) -> bool:
    return size in _CHANNELS


def _transposed(graph: onnx.GraphProto, name: str, rank: int) -> list[int]:
    """The order of the first transposition of the images."""
    names = {name}
    for _ in range(len(_BEFORE)):  # as many in a row as there can be kinds, whatever their order in the file
        for node in graph.node:
            if not names.isdisjoint(node.input) and node.output:
                if node.op_type == "Transpose":
                    return list(
                        next((one.ints for one in node.attribute if one.name == "perm"), range(rank)[::-1])
                    )
                if node.op_type in _BEFORE:
                    names.add(node.output[0])
    return []


def canonical(shape: Shape, axes: str) -> Shape:
    """``shape`` in the order [N,C,H,W]; an axis that is not there counts 1."""
    return tuple(shape[axes.index(axis)] if axis in axes else 1 for axis in AXES)


def arranged(x: Tensor, axes: str) -> Tensor:
    """float [N,C,H,W] as the file has it; N or C is 1 where there is no such axis."""
    for position, axis in reversed([*enumerate(AXES)]):
        if axis not in axes:
            x = x.select(position, 0)
    order = [axis for axis in AXES if axis in axes]
    return x if "".join(order) == axes else x.permute([order.index(axis) for axis in axes])


def whole(x: Tensor) -> Tensor:
    """The nearest numbers of a picture, 0..255, with the gradient of what they stand for."""
    return x + (x.detach().round().clamp(0, 255) - x.detach())


def after(axes: str, node: onnx.NodeProto) -> str:
    """Axes of what ``node`` makes of a value with the given ones; empty where they are lost."""
    attributes = {one.name: one for one in node.attribute}
    if node.op_type == "Transpose":
        order = list(attributes["perm"].ints) if "perm" in attributes else list(range(len(axes))[::-1])
        return "".join(axes[i] for i in order) if sorted(order) == list(range(len(axes))) else ""
    return axes if node.op_type in (*_BEFORE, "Concat", "Relu", "Split") else ""


def require_moves(nodes: Sequence[onnx.NodeProto], name: str) -> None:
    """Raises ``Unsupported`` where whole numbers are computed with, which wraps around where floats do not."""
    names = {name}
    for node in nodes:
        if names.isdisjoint(node.input):
            continue
        to = next((one.i for one in node.attribute if one.name == "to"), 0)
        if node.op_type == "Cast" and to in FLOAT_TYPES:
            continue
        if node.op_type not in _MOVES:
            raise Unsupported(
                f"The ONNX graph computes with the whole numbers of its images ({node.op_type}) before it makes floats "
                "of them; export it with floats as input."
            )
        names.update(node.output)
