"""A TorchScript file as it is served: plain ``torch.jit.load``, nothing lifted."""

from __future__ import annotations

from collections.abc import Callable

import torch

from formats.errors import Unsupported
from formats.model import Source
from formats.torchscript import lift
from formats.torchscript.manifest import read_manifest
from formats.torchscript.network import BATCHES, batched, logits_of
from formats.torchscript.opener import example_shape, served_dtype

RUNTIME = "torch.jit"


def serve(source: Source, arch: str | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """float32 ``[N,C,H,W]`` → float32 logits ``[N,K]`` on the CPU, detached; run in the caller's gradient mode.

    ``arch`` is ignored. Images are cast to the dtype of most weights; a graph that takes one batch size only
    is given that size. The function raises Unsupported when the network fails on the images.
    """
    manifest = read_manifest(source)
    module = lift.load(source.data)
    dtype = served_dtype(manifest)
    example = example_shape(manifest)
    batches: list[int | None] = [None, *((example[0],) if example else BATCHES)]

    def run(x: torch.Tensor) -> torch.Tensor:
        return logits_of(module(x.to(dtype)), len(x), source.logits)

    def call(x: torch.Tensor) -> torch.Tensor:
        failure: Exception | None = None
        for batch in batches:
            try:
                logits = batched(run, x, batch)
            except (RuntimeError, torch.jit.Error) as error:
                failure = failure or error
                continue
            if len(logits) == len(x):
                if batch is not None:
                    batches[:] = [batch]
                return logits.detach().float()
        reason = lift.reason(failure) if failure else "it gives another number of rows"
        raise Unsupported(f"The network fails on images of shape {list(x.shape)}: {reason}") from failure

    return call
