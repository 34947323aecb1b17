"""Half precision as it is served: what a graph computes in it is computed in float32 and rounded, and overflows.

ONNX promotes no types: what an operator returns has the type of one of its inputs, or of an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

#: TensorProto.DataType → the dtype to which values of that type are rounded.
NARROW: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}
#: Input whose type is that of the result, where it is not the first.
_TYPED_BY = {"CastLike": 1, "DequantizeLinear": 1, "OneHot": 2, "Where": 1}
#: Attribute that tells the type; without it, the type of the first input.
_TOLD_BY = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}
#: Results are among the inputs, which are rounded already.
_EXACT = frozenset(
    (
        "Concat", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "MaxPool", "Neg", "Relu",
        "GlobalMaxPool", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Shape", "Size",
    )
)  # fmt: skip


class _Rounded(torch.autograd.Function):
    """Rounded forward; the gradient passes as it is, for rounded to half it would vanish or overflow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x``, any floating dtype and shape, as it is after a cast to ``dtype`` and back; others as they are."""
    if not x.is_floating_point():
        return x
    found: Tensor = _Rounded.apply(x, dtype)  # type: ignore[no-untyped-call]
    return found


def of_node(
    node: onnx.NodeProto, inputs: Sequence[str], narrow: Mapping[str, torch.dtype]
) -> torch.dtype | None:
    """The half dtype of what ``node`` returns, if it is one; ``narrow``: of the values before it, by name."""
    attributes = {one.name: one for one in node.attribute}
    told = attributes.get(_TOLD_BY.get(node.op_type, ""))
    if told is not None:
        return NARROW.get(told.i)
    if node.op_type in ("Constant", "ConstantOfShape"):
        return NARROW.get(attributes["value"].t.data_type) if "value" in attributes else None
    at = _TYPED_BY.get(node.op_type, 0)
    return narrow.get(inputs[at]) if at < len(inputs) else None


def rounding(operator: str, function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """``function`` with its results rounded to ``dtype``."""
    if operator in _EXACT:
        return function

    def run(*inputs: Tensor | None, **attributes: Any) -> Any:
        made = function(*inputs, **attributes)
        if isinstance(made, Tensor):
            return rounded(made, dtype)
        return tuple(rounded(one, dtype) if isinstance(one, Tensor) else one for one in made)

    return run
