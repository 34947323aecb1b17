"""Run an ONNX graph as a deployment does: onnxruntime on the CPU, from one self-contained byte string."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it looks when it is imported, and tells its makers otherwise
import onnxruntime

from formats.dtypes import DTYPES
from formats.errors import Unsupported
from formats.model import Source
from formats.onnx import proto
from formats.onnx.manifest import read_manifest
from formats.outputs import rows

RUNTIME = "onnxruntime"

_ORT: Any = onnxruntime  # its stubs export nothing
#: Type of the images by that of the graph's input; numpy has no bfloat16.
_INPUTS = {one.onnx: np.dtype(one.numpy or "float32") for one in DTYPES.values()}
#: What is too new, and how onnxruntime says so.
_VERSIONS = {
    "IR version": r"IR version: (\d+), max supported IR version: (\d+)",
    "opset": r"Opset (\d+) is under development.* till opset (\d+)",
}


class Session:
    """``x`` float32 [N,C,H,W] → the named values, float32 (integers stay) on the CPU, first axis N.

    One thread; nothing but the bytes is read. A fixed batch size is met by cutting and filling up. Raises
    :class:`Unsupported` when onnxruntime refuses the graph or the images.
    """

    def __init__(self, model: onnx.ModelProto, entry: proto.Signature, outputs: Sequence[str]) -> None:
        self._entry = entry
        self._outputs = list(outputs)
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        del exposed.metadata_props[:]  # a runtime may take settings from them
        there = {value.name for value in exposed.graph.output}
        for name in outputs:
            if name not in there:
                exposed.graph.output.append(onnx.ValueInfoProto(name=name))
        options = _ORT.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = _ORT.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = _ORT.InferenceSession(
                exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no common base of its errors
            raise _refused(error) from error

    def __call__(self, x: Tensor) -> list[Tensor]:
        images = x.detach().cpu()
        size = self._entry.batch or max(len(images), 1)
        found: list[list[Tensor]] = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            count = len(part)
            if self._entry.batch and count < size:
                part = torch.cat([part, part[-1:].expand(size - count, -1, -1, -1)])
            fed = self._entry.fed(part).numpy().astype(_INPUTS[self._entry.elem_type])
            try:
                values = self._session.run(self._outputs, {self._entry.input: fed})
            except Exception as error:
                raise _refused(error) from error
            found.append([rows(_float(value), len(part))[:count] for value in values])
        return [torch.cat(column) for column in zip(*found, strict=True)]


def _float(value: Any) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    return tensor.float() if tensor.is_floating_point() else tensor


class TooNew(Unsupported):
    """The file is of a later version of the format than the runtime here."""


def _refused(error: Exception) -> Unsupported:
    text = " ".join(str(error).split())
    for what, said in _VERSIONS.items():
        if found := re.search(said, text):
            return TooNew(
                f"The ONNX file has {what} {found[1]} and onnxruntime {onnxruntime.__version__} takes up to "
                f"{found[2]}: export it for that, or install a newer onnxruntime."
            )
    # Less the place in the source of onnxruntime and the signature of the function there.
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", text)
    return Unsupported(f"onnxruntime refuses the model: {text[:300]}")


def serve(source: Source, arch: str | None = None) -> Callable[[Tensor], Tensor]:
    """Normalised float32 [N,C,H,W] → logits float32 [N,K] on the CPU, read before a final softmax.

    Of an image for which what follows the logits prefers another class (a softmax over the batch, one that makes equals
    of what differs little), what follows is given: it is what a deployment gets.
    """
    model = proto.load(source, read_manifest(source))
    entry = proto.signature(model, source.logits)
    session = Session(model, entry, [entry.output, entry.served])

    def run(x: Tensor) -> Tensor:
        logits, served = (values.flatten(1) for values in session(x))
        return proto.preferred(logits, served) if served.shape == logits.shape else served

    return run
