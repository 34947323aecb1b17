"""The lifted graph as a torch module: weights are parameters, statistics and constants are buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from formats.errors import Unsupported
from formats.outputs import chosen, rows
from formats.torchscript.lift import Lifted, plain_execution, reason

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
        #: Name of the value that holds the logits, of several.
        self.logits: str | None = None
        self.weights = nn.Module()
        for key, value in parameters.items():
            self.weights.register_parameter(key, nn.Parameter(value))
        for key, value in buffers.items():
            self.weights.register_buffer(key, value)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def run(part: torch.Tensor) -> torch.Tensor:
            return logits_of(self.raw(part), len(part), self.logits)

        with plain_execution():
            return batched(run, x, self.batch).float()

    def raw(self, x: torch.Tensor) -> Any:
        """What the graph returns for one batch. Raises Unsupported where its code raises an error."""
        tensors = [self._tensor(slot) for slot in self.slots]
        try:
            return self.lifted.function(x, x.device, *tensors)
        except torch.jit.Error as error:
            raise Unsupported(f"The network raises an error for some images: {reason(error)}") from error

    def _tensor(self, slot: Slot) -> torch.Tensor:
        value: torch.Tensor = getattr(self.weights, slot.key)
        return value if slot.view is None else value.as_strided(*slot.view)


def outputs_of(output: Any, count: int) -> dict[str, torch.Tensor]:
    """What a network returns for ``count`` images, by name: of several values those of the form [N,K], called as they
    are or by their number; one alone is called "". Raises Unsupported when there is none."""
    if isinstance(output, Mapping):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, tuple | list):
        named = dict(zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=False))
    else:
        named = {"": rows(output, count) if isinstance(output, torch.Tensor) else output}
    flat = {name: _flat(value) for name, value in named.items()}
    kept = {
        name: value
        for name, value in flat.items()
        if isinstance(value, torch.Tensor) and value.dim() == 2 and value.is_floating_point()
    }
    if not kept:
        first = next(iter(flat.values()), None)
        shape = list(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise Unsupported(f"The network returns {shape}; a classifier returns logits of shape [N, K].")
    return kept


def _flat(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[2:].numel() == 1:
        return value.flatten(1)
    return value


def logits_of(output: Any, count: int, name: str | None = None) -> torch.Tensor:
    """The logits of what a network returns for ``count`` images, of several values the one called ``name`` or as
    :func:`formats.outputs.chosen` says."""
    found = outputs_of(output, count)
    return found[chosen({one: value.shape[1] for one, value in found.items()}, name)]


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
