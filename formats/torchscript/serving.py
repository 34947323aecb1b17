"""A TorchScript file as it is served: plain ``torch.jit.load``, nothing lifted."""

from __future__ import annotations

from collections.abc import Callable

import torch

from formats.model import Source
from formats.torchscript import lift
from formats.torchscript.archive import read_manifest
from formats.torchscript.network import batched, logits_of
from formats.torchscript.opener import DTYPES


def serve(source: Source, arch: str | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """float32 ``[N,C,H,W]`` → float32 logits ``[N,K]`` on the CPU, without gradients.

    ``arch`` is ignored. Images are cast to the dtype of the file's weights; a graph that takes one batch size
    only is given that size.
    """
    manifest = read_manifest(source)
    module = lift.load(source.data)
    elements = {"F32": 0, "F16": 0, "BF16": 0, "F64": 0}
    for address in manifest.tensors.values():
        if address.dtype in elements:
            elements[address.dtype] += address.elements
    dtype = DTYPES[max(elements, key=elements.__getitem__)]
    text = manifest.metadata.get("example_shape", "1")
    usual = max(int(text.partition(",")[0]), 1)
    fixed: list[int | None] = [None]

    def run(x: torch.Tensor) -> torch.Tensor:
        return logits_of(module(x.to(dtype)))

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            try:
                logits = batched(run, x, fixed[0])
            except RuntimeError:
                if fixed[0] is not None or len(x) == usual:
                    raise
                logits = None
            if logits is None or len(logits) != len(x):
                fixed[0] = usual
                logits = batched(run, x, usual)
        return logits.float()

    return call
