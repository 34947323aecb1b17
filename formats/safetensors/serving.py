"""Serve a safetensors file as its users do: the safetensors library, and the architecture built anew."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from formats.model import Source
from formats.outputs import rows
from formats.safetensors.architectures import choose, load_state
from formats.safetensors.manifest import read_manifest

RUNTIME = "torch"


def serve(source: Source, arch: str | None = None) -> Callable[[Tensor], Tensor]:
    """Normalised float32 [N,C,H,W] → logits [N,K], detached; run in the caller's gradient mode. ``arch``: as for
    opening."""
    from safetensors.torch import load

    choice = choose(source, read_manifest(source), arch)
    parts = source.files.values() or [source.data]
    load_state(choice, {name: tensor for part in parts for name, tensor in load(part).items()})
    network = choice.network

    def run(x: Tensor) -> Tensor:
        output = network(x.cpu())
        return rows((output if isinstance(output, Tensor) else output[0]).detach(), len(x))

    return run
