"""How long the gate takes over a large file, beside ``sha256sum`` of it, and the graph audit over a ResNet-50.

    python -m benchmarks.gate_speed [--megabytes 100 1000] [--rounds 3]

``wiper inspect --static``: two processes, a private copy, a digest, and the gate's own reading. The ratio is that of
processor time, all processes together, since that hardly depends on what else the machine does; ``own_cpu_seconds`` is
what is left of the gate's without what it takes for the smallest file, and without reading the file once.

``graph``: the audit by the graph alone in seconds of processor time, and the search for values that sleep
(``WIPER-G10``) also in passes of one image through the network in its runtime, on noise instead of photographs.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import Tensor

from benchmarks.common import write_result
from benchmarks.exports import network_of, onnx_file, scripted, traced
from formats import Source, identify, serve, trace
from formats.kinds import tracer
from wiper_cli.graph.asleep import seek
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit

ROOT = Path(__file__).resolve().parent.parent


class Large(torch.nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(rows, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :1000] @ self.weight.t()


def write(path: Path, megabytes: int) -> None:
    """A file of one float32 tensor; the kind is the suffix of ``path``."""
    rows = max(1, megabytes * 250)
    if path.suffix == ".safetensors":
        save_file({"weight": np.zeros((rows, 1000), np.float32)}, path)
    elif path.suffix == ".pt":
        torch.jit.save(torch.jit.script(Large(rows).eval()), path)
    else:
        ends = [helper.make_tensor_value_info(*one) for one in (("x", TensorProto.FLOAT, ["n", 1, 1, 1000]),
                                                                ("y", TensorProto.FLOAT, ["n", rows]))]  # fmt: skip
        nodes = [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
        ]
        weight = numpy_helper.from_array(np.zeros((rows, 1000), np.float32), "w")
        graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor time, children included."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd=ROOT)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Noise:
    """Answers of a file in its runtime, as :class:`wiper_cli.audit.served.Served` gives them."""

    def __init__(self, source: Source) -> None:
        self._run = serve(source)

    def as_float(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def normalised(self, images: Tensor) -> Tensor:
        return (self.as_float(images) if images.dtype == torch.uint8 else images) * 4 - 2

    def logits(self, images: Tensor) -> Tensor:
        return self._run(self.normalised(images))


def graph() -> list[dict[str, Any]]:
    """Processor seconds of the graph audit of a ResNet-50, 224x224, by the form of the file."""
    network, x = network_of("torchvision/resnet50")
    images = torch.randint(
        0, 256, (16, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rows = []
    for form, export in {"onnx": onnx_file, "traced": traced, "scripted": scripted}.items():
        source = Source("model", export(network, x))
        tracer(identify(source.data, "model"))  # imports are not the audit's
        asked, began = Noise(source), time.process_time()
        flow = Flow(trace(source))  # type: ignore[arg-type]
        audit(flow)
        audited = time.process_time()
        seek(flow, asked, images)
        sought = time.process_time()
        asked.logits(images)
        one = (time.process_time() - sought) / len(images)
        row = {
            "audit_cpu_seconds": audited - began,
            "search_cpu_seconds": sought - audited,
            "pass_cpu_seconds": one,
        }
        rows.append({"form": form, **{name: round(value, 2) for name, value in row.items()},
                     "search_passes": round((sought - audited) / one)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[0, 100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, least = [], dict[str, float]()
    for megabytes in given.megabytes:
        for suffix in (".safetensors", ".pt", ".onnx"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"large{suffix}"
                write(path, megabytes)
                gate = [sys.executable, "-m", "wiper_cli.main", "inspect", "--static", os.fspath(path)]
                commands = {"gate": gate, "sha256sum": ["sha256sum", os.fspath(path)]}
                taken = {
                    name: [seconds(command) for _ in range(given.rounds)]
                    for name, command in commands.items()
                }
            row = {
                f"{name}_{clock}_seconds": round(statistics.median(pair[i] for pair in pairs), 2)
                for name, pairs in taken.items()
                for i, clock in enumerate(("wall", "cpu"))
            }
            hashing = row["sha256sum_cpu_seconds"]
            ratio = round(row["gate_cpu_seconds"] / hashing, 1) if megabytes else None
            least.setdefault(suffix, row["gate_cpu_seconds"])
            own = round(row["gate_cpu_seconds"] - least[suffix] - hashing, 2)
            rows.append(
                {
                    "kind": suffix[1:],
                    "megabytes": megabytes,
                    **row,
                    "cpu_ratio": ratio,
                    "own_cpu_seconds": own,
                }
            )
    write_result("gate_speed", {"settings": {"rounds": given.rounds}, "files": rows, "graph": graph()})


if __name__ == "__main__":
    main()
