"""Gradients that do not vanish where a function is flat: a threshold that no image passes has none otherwise, nor a
softmax or a norm that one of its numbers fills."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Share of a gradient that passes where there would be none.
LEAK = 0.1
#: Operators that compute a gradient from that of their result, their first argument.
_FLAT = frozenset(
    f"aten::{name}_backward"
    for name in (
        "threshold", "hardtanh", "hardsigmoid", "hardswish", "sigmoid", "tanh", "elu", "gelu", "silu", "softplus",
        "mish",
    )
)  # fmt: skip
_SOFTMAX = ("aten::_softmax_backward_data", "aten::_log_softmax_backward_data")
#: Normalisation: where 1 / deviation stands among the arguments, the weights behind it.
_NORMS = {"aten::native_layer_norm_backward": 4, "aten::native_group_norm_backward": 3}


class Leaky(TorchDispatchMode):
    """While gradients are computed. Clamps, minima and maxima are seen by the masks that their gradients get."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what would otherwise load the compiler, for a second, with the first operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in ("aten::masked_fill", "aten::masked_fill_") and _zero(args[2]):
            leaked = torch.where(args[1], LEAK * args[0], args[0])
            return args[0].copy_(leaked) if name.endswith("_") else leaked
        result = func(*args, **(kwargs or {}))
        if name in _FLAT:
            return result + LEAK * args[0]
        if name in _SOFTMAX:
            return result + LEAK * (args[0] - args[0].mean(args[2], keepdim=True))
        if name in _NORMS and result[0] is not None:
            return (result[0] + LEAK * _unprojected(name, args), *result[1:])
        if name == "aten::where" and len(args) == 3 and isinstance(args[1], Tensor) and _zero(args[2]):
            return torch.where(args[0], args[1], LEAK * args[1])
        return result


def _unprojected(name: str, args: Any) -> Tensor:
    """The gradient of a normalised value times weights and over the deviation, the mean and the length left in."""
    grad: Tensor = args[0]
    scale: Tensor = args[_NORMS[name]]
    weight: Tensor | None = args[_NORMS[name] + 1]
    if name == "aten::native_group_norm_backward":  # [N, groups] → [N, C], for [N, C, ...]
        scale = scale.repeat_interleave(grad.shape[1] // scale.shape[1], 1)
        scale = scale if weight is None else scale * weight
        return grad * scale.reshape(scale.shape + (1,) * (grad.dim() - 2))
    return grad * scale if weight is None else grad * scale * weight


def _zero(value: Tensor | float) -> bool:
    return not bool(torch.as_tensor(value).any())


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Of a scalar with respect to ``x``, leaking."""
    with Leaky():  # type: ignore[no-untyped-call]
        found: Tensor = torch.autograd.grad(loss, x)[0]
    return found
