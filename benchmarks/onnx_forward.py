"""Forward speed of a network opened through our ONNX importer against the eager network it was exported from.

    python -m benchmarks.onnx_forward [--rounds 7]

Alternating in one run, one thread on the CPU (or CUDA), without gradients. Batch norm is folded into the
convolutions in the file, as torch's exporter does, and live in the eager network: that is what users compare.
So the ratio against the file with live batch norm (``-live``) stands beside it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_result
from formats import open_model, read_source
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.zoo import architectures
from wiper_cli.zoo.export import export_onnx

LEAST_RATIO = 0.8
#: Network → images in a batch, side in pixels.
CASES = {
    "resnet18-width16": (128, 32),
    "mobilenet_v3_small": (32, 64),
    "vit_b_16": (4, 64),
    "convnext_tiny": (8, 64),
}


def build(name: str) -> Any:
    """The eager network in eval mode."""
    torch.manual_seed(0)
    if name == "resnet18-width16":
        network = architectures.find("resnet18-w16").build(10, 3)
        architectures.initialise(network, torch.Generator().manual_seed(0))
        return network.eval()
    options = {"image_size": 64} if name == "vit_b_16" else {}
    return import_torchvision().models.get_model(name, weights=None, num_classes=10, **options).eval()


@torch.no_grad()
def compare(name: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median ratios eager time / ours (above 1: ours is faster), by wall and processor time."""
    count, side = CASES[name]
    eager = build(name)
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    networks = {"eager": eager.to(device)}
    with tempfile.TemporaryDirectory() as folder:
        for kind, fold in (("folded", True), ("live", False)):
            path = Path(folder) / f"{kind}.onnx"
            with torch.enable_grad():  # without gradients attention is one fused operator that ONNX lacks
                export_onnx(eager.cpu(), x[:2], path, fold)
            networks[kind] = open_model(read_source(path)).network.to(device)
    eager.to(device)
    x = x.to(device)
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in networks}
    for number in range(rounds + 2):
        for kind, network in networks.items():
            wall, processor = time.perf_counter(), time.process_time()
            network(x)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 1:  # the first two warm up
                times[kind].append((time.perf_counter() - wall, time.process_time() - processor))
    record: dict[str, Any] = {"batch": count, "side": side}
    for kind in ("folded", "live"):
        for i, clock in enumerate(("wall", "cpu")):
            pairs = zip(times["eager"], times[kind], strict=True)
            record[f"{kind}_{clock}"] = round(statistics.median(a[i] / b[i] for a, b in pairs), 3)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write_result(
        "onnx_forward",
        {
            "settings": {"rounds": rounds},
            "device": device.type,
            "least_ratio": LEAST_RATIO,
            "speed_relative_to_eager": {name: compare(name, rounds, device) for name in CASES},
        },
    )


if __name__ == "__main__":
    main()
