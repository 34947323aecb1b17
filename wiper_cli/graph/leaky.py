"""Gradients that do not vanish where a function is flat: a threshold that no image passes has none otherwise."""

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
        if name == "aten::where" and len(args) == 3 and isinstance(args[1], Tensor) and _zero(args[2]):
            return torch.where(args[0], args[1], LEAK * args[1])
        return result


def _zero(value: Tensor | float) -> bool:
    return not bool(torch.as_tensor(value).any())


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Of a scalar with respect to ``x``, leaking."""
    with Leaky():  # type: ignore[no-untyped-call]
        found: Tensor = torch.autograd.grad(loss, x)[0]
    return found
