"""The lifted graph as a torch module: weights are parameters, statistics and constants are buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from formats.errors import Unsupported
from formats.torchscript.lift import Lifted, plain_execution

#: Fixed batch sizes that are tried where the file records none.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Slot:
    """Where an argument of the graph comes from: ``key`` in the weights, whole or as a view of it.

    ``view``: size, stride and offset in elements of a tensor that lies inside the one at ``key``.
    """

    key: str
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None


class GraphNetwork(nn.Module):
    """``[N,C,H,W]`` float32 → logits ``[N,K]`` float32, always in eval mode.

    ``batch``: images that one run of the graph takes, ``None`` when that is free.
    """

    def __init__(
        self,
        lifted: Lifted,
        slots: tuple[Slot, ...],
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()
        self.lifted = lifted
        self.slots = slots
        self.batch: int | None = None
        self.weights = nn.Module()
        for key, value in parameters.items():
            self.weights.register_parameter(key, nn.Parameter(value))
        for key, value in buffers.items():
            self.weights.register_buffer(key, value)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = [self._tensor(slot) for slot in self.slots]

        def run(part: torch.Tensor) -> torch.Tensor:
            return logits_of(self.lifted.function(part, part.device, *tensors))

        with plain_execution():
            return batched(run, x, self.batch).float()

    def _tensor(self, slot: Slot) -> torch.Tensor:
        value: torch.Tensor = getattr(self.weights, slot.key)
        return value if slot.view is None else value.as_strided(*slot.view)


def logits_of(output: Any) -> torch.Tensor:
    """The logits of what a network returns: the tensor itself, ``logits``, ``out``, or the first of several.

    Raises Unsupported when there is no tensor ``[N,K]``.
    """
    if isinstance(output, Mapping):
        output = next(
            (output[key] for key in ("logits", "out") if key in output), next(iter(output.values()), None)
        )
    elif isinstance(output, tuple | list):
        output = getattr(output, "logits", next(iter(output), None))
    if isinstance(output, torch.Tensor) and output.dim() > 2 and output.shape[2:].numel() == 1:
        output = output.flatten(1)
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise Unsupported(f"The network returns {shape}; a classifier returns logits of shape [N, K].")
    return output


def batched(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, batch: int | None) -> torch.Tensor:
    """``run(x)``, in parts of exactly ``batch`` images when it is given; the last part is filled up."""
    if batch is None or len(x) == batch:
        return run(x)
    parts = []
    for begin in range(0, len(x), batch):
        part = x[begin : begin + batch]
        missing = batch - len(part)
        filled = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        parts.append(run(filled)[: len(part)])
    return torch.cat(parts)
