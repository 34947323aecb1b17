"""Over how many numbers is normalised where the graph does not tell (G13): sizes of one image's values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from formats import FormatError
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import Hit, unusual_hit
from wiper_cli.graph.solve import Asked
from wiper_cli.graph.usual import FEW, groups, over, unsized


@torch.no_grad()
def few(flow: Flow, asked: Asked, images: Tensor) -> Iterator[Hit]:
    """Where a value is normalised over few numbers, or over an unknown number of them. ``images``: uint8 [N,C,H,W]."""
    x = asked.normalised(asked.as_float(images[:1]))
    for n in unsized(flow):
        try:
            count = _count(flow, n, x)
        except (FormatError, RuntimeError):  # inside a condition
            count = 0
        if count < FEW:
            yield unusual_hit(flow, n, over(count))


def _count(flow: Flow, n: int, x: Tensor) -> int:
    shape = flow.dataflow.prefix(flow[n].inputs[0])(x).shape
    if flow[n].role == "reduce":
        return shape.numel() // flow.dataflow.prefix(n)(x).numel()
    each = groups(flow, n) or shape[1]  # of a value in ONNX the shape is not known, but there are weights
    return shape.numel() // (shape[0] * each)
