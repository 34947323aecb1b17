"""Upper bounds on the activations of a network opened from any kind of file.

Activations are caught below autograd, where every library call arrives, also those of a TorchScript graph; what a
call returns is clipped there. Autograd does not know of it, so a hook on the node of each activation stops the
gradient where it was clipped and hands it to the bound.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from formats.head import walk
from wiper_cli.verdict import ExitCode, Problem

#: Activations by their call below autograd, and the names of their nodes on the graph.
ACTIVATIONS = frozenset(
    {"relu", "hardtanh", "leaky_relu", "silu", "gelu", "elu", "hardswish", "mish", "clamp", "clamp_min"}
)
NODES = frozenset(
    f"{name}Backward{n}"
    for name in (
        "Relu", "Hardtanh", "LeakyRelu", "Silu", "Gelu", "Elu", "Hardswish", "Mish", "Clamp", "ClampMin",
    )
    for n in (0, 1)
)  # fmt: skip

Network = Callable[[Tensor], Tensor]


class _Catch(TorchDispatchMode):
    """Hands every activation to ``change(place, value)`` and returns its answer in place of ``value``. ``places``:
    how many the network has; one that runs a batch in pieces passes them again for each piece."""

    def __init__(self, change: Callable[[int, Tensor], Tensor], places: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.change, self.places, self.calls = change, places, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.removesuffix("_") not in ACTIVATIONS or not isinstance(value, Tensor) or value.dim() < 2:
            return value
        place = self.calls if self.places is None else self.calls % self.places
        self.calls += 1
        changed = self.change(place, value)
        if name.endswith("_") and changed is not value:
            return value.copy_(changed)
        return changed


@torch.no_grad()
def activations(network: Network, x: Tensor) -> list[Tensor]:
    """What every activation of the network returns for ``x`` float32 [N,C,H,W], in forward order: [N,...] each.

    Raises :class:`Problem` when there is none. A network that runs a batch in pieces shows each piece.
    """
    seen: list[Tensor] = []

    def keep(_: int, value: Tensor) -> Tensor:
        seen.append(value.detach().clone())
        return value

    with _Catch(keep):
        network(x)
    if not seen:
        raise Problem(
            "This network has no activation that could be bounded; try --method unlearn.", ExitCode.NO_VERDICT
        )
    return seen


def first_bounds(network: Network, batches: Sequence[Tensor], deviations: float) -> list[Tensor]:
    """mean + ``deviations`` times the unbiased standard deviation of every element of every activation over all
    images of ``batches``, at least 0: float32 [...] a place, without the batch dimension."""
    places = len(activations(network, batches[0][:1]))
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    count = 0
    for x in batches:
        seen = activations(network, x)
        for place in range(places):
            value = torch.cat(seen[place::places])[: len(x)].double()
            if count == 0:
                sums.append(torch.zeros_like(value[0]))
                squares.append(torch.zeros_like(value[0]))
            sums[place] += value.sum(0)
            squares[place] += value.square().sum(0)
        count += len(x)
    bounds = []
    for total, square in zip(sums, squares, strict=True):
        mean = total / count
        variance = (square - count * mean.square()).clamp_min(0) / max(1, count - 1)
        bounds.append((mean + deviations * variance.sqrt()).clamp_min(0).float())
    return bounds


def bounded(network: Network, bounds: Sequence[Tensor], x: Tensor) -> Tensor:
    """Logits of ``x`` with every activation clipped from above, differentiable by ``x`` (which must require a
    gradient for that); ``bounds`` as of :func:`first_bounds`, constant here."""
    return _run(network, bounds, x, None)


def gradients(
    network: Network, bounds: Sequence[Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """(``loss`` of the bounded network's logits, its gradient by every bound)."""
    found = [torch.zeros_like(bound) for bound in bounds]
    x = x.detach().requires_grad_(True)
    value = loss(_run(network, bounds, x, found))
    torch.autograd.grad(value, x)
    return value.detach(), found


def _run(network: Network, bounds: Sequence[Tensor], x: Tensor, found: list[Tensor] | None) -> Tensor:
    clipped: list[tuple[int, Tensor]] = []

    def clip(place: int, value: Tensor) -> Tensor:
        bound = bounds[place].to(value.dtype)
        if torch.is_grad_enabled():
            clipped.append((place, value > bound))
        return torch.minimum(value, bound)

    with _Catch(clip, len(bounds)):
        logits = network(x).float()
    if logits.grad_fn is not None:
        nodes = [node for node in walk(logits.grad_fn) if node.name() in NODES]
        nodes.sort(key=lambda node: node._sequence_nr())
        if len(nodes) != len(clipped):
            raise Problem(
                "The activations of this network cannot be told apart on its graph, so they cannot be bounded; try "
                "--method unlearn.",
                ExitCode.NO_VERDICT,
            )
        for node, (place, where) in zip(nodes, clipped, strict=True):
            node.register_prehook(_stop(where, None if found is None else found[place]))
    return logits


def _stop(where: Tensor, total: Tensor | None) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(incoming: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gradient = incoming[0]
        if total is not None:
            total.add_((gradient * where).sum(0))
        return (gradient.masked_fill(where, 0), *incoming[1:])

    return hook
