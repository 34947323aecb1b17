"""How long the gate takes over a large file, beside ``sha256sum`` of the same file.

    python -m benchmarks.gate_speed [--megabytes 100 1000] [--rounds 3]

``wiper inspect --static``: two processes, a private copy, a digest, and the gate's own reading. The ratio is that of
processor time, all processes together, since that hardly depends on what else the machine does.
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

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from benchmarks.common import write_result

ROOT = Path(__file__).resolve().parent.parent


class Large(torch.nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(rows, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :1000] @ self.weight.t()


def write(path: Path, megabytes: int) -> None:
    """A file of one float32 tensor; the kind is the suffix of ``path``."""
    rows = megabytes * 250
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
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
            ratio = round(row["gate_cpu_seconds"] / row["sha256sum_cpu_seconds"], 1)
            rows.append({"kind": suffix[1:], "megabytes": megabytes, **row, "cpu_ratio": ratio})
    write_result("gate_speed", {"settings": {"rounds": given.rounds}, "files": rows})


if __name__ == "__main__":
    main()
