"""What a scan adds to a bare forward pass over the same folder, and whether its memory grows with the folder.

    python -m benchmarks.scan_overhead [--images 1500] [--rounds 5]

Side by side in one run, alternating, one thread: (bare) decode and one forward pass; (streamed) the scan's
salience pass over the streamed folder; (scan) all that ``wiper scan --detectors none --mean --std`` does in
its child: the model opened, the folder decoded into three parts, preprocessing checked, accuracy, salience.
Detectors are left out: they are searches and have their own budgets. The network is a ResNet-18 of base width
16 with random weights, the pictures are 32x32 PNGs of noise. Memory: peak resident sizes of five
processes that scan the folder, and of five that scan one four times as large, both above the number of images
that a scan keeps in memory (``--max-images``). What the allocator holds differs from process to process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import write_result
from formats import open_model, read_source
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.audit.subject import SILENT, Notes, prepare
from wiper_cli.classifier import Classifier
from wiper_cli.images.decode import Geometry
from wiper_cli.images.folder import read_folder
from wiper_cli.salience.stream import SaliencePass
from wiper_cli.zoo import architectures
from wiper_cli.zoo.export import export_safetensors

LIMIT = {"bare": 1.0, "streamed": 1.05, "scan": 1.15}
GEOMETRY, BATCH = Geometry(3, 32, 32), 256
KEPT = 500


def make(folder: Path, images: int) -> Path:
    """``folder/clean/CLASS/NNNNN.png`` and ``folder/model.safetensors``."""
    pixels = np.random.default_rng(0)
    for number in range(images):
        place = folder / "clean" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.integers(0, 256, (32, 32, 3), np.uint8)).save(place / f"{number:05d}.png")
    network = architectures.find("resnet18-w16").build(10, 3).eval()
    architectures.initialise(network, torch.Generator().manual_seed(0))
    export_safetensors(network, folder / "model.safetensors")
    return folder


def request(folder: Path, max_images: int) -> ScanRequest:
    """The scan's request, with the preprocessing given."""
    return ScanRequest(
        model=folder / "model.safetensors",
        clean=folder / "clean",
        mean=(0.5,),
        std=(0.5,),
        device="cpu",
        max_images=max_images,
    )


def passes(folder: Path, images: int) -> dict[str, Callable[[], object]]:
    """The three pieces of work that are compared."""
    model = open_model(read_source(folder / "model.safetensors"))
    classifier = Classifier(model, (0.5,) * 3, (0.5,) * 3)

    def bare() -> None:
        for batch in read_folder(folder / "clean", 10).stream(GEOMETRY, BATCH):
            classifier.logits(batch.images)

    def streamed() -> None:
        total = SaliencePass(classifier.head()[0])
        for batch in read_folder(folder / "clean", 10).stream(GEOMETRY, BATCH):
            total.add(*classifier.features(batch.images), batch.labels)
        total.result()

    return {
        "bare": bare,
        "streamed": streamed,
        "scan": lambda: prepare(request(folder, images), SILENT, Notes()),
    }


def peak(folder: Path) -> float:
    """MiB: the most that a process has resident which scans ``folder`` and keeps ``KEPT`` images."""
    command = [sys.executable, "-m", "benchmarks.scan_overhead", "--child", str(folder)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    option = parser.parse_args()
    torch.set_num_threads(1)
    if option.child:
        prepare(request(option.child, KEPT), SILENT, Notes())
        # Not ru_maxrss: a started process takes over the peak of the one that started it.
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        print(int(status.split()[0]) / 1024)
        return
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        small, large = make(Path(first), option.images), make(Path(second), 4 * option.images)
        work = passes(small, option.images)
        for run in work.values():
            run()
        rounds = []
        for number in range(option.rounds):
            line: dict[str, dict[str, float]] = {}
            for turn in range(len(work)):  # nobody is always the first
                name, run = list(work.items())[(number + turn) % len(work)]
                wall, processor = time.perf_counter(), time.process_time()
                run()
                line[name] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor}
            rounds.append(line)
        memory = {
            name: [peak(folder) for _ in range(5)]
            for name, folder in (("images", small), ("four_times", large))
        }
    ratio = {
        f"{name}_{clock}": round(statistics.median(r[name][clock] / r["bare"][clock] for r in rounds), 3)
        for name in ("streamed", "scan")
        for clock in ("cpu", "wall")
    }
    write_result(
        "scan_overhead",
        {
            "settings": {"images": option.images, "rounds": option.rounds, "batch": BATCH, "kept": KEPT},
            "limits": {"streamed": LIMIT["streamed"], "scan": LIMIT["scan"]},
            "ratio_to_bare": ratio,
            "bare_seconds": round(statistics.median(r["bare"]["wall"] for r in rounds), 3),
            "peak_mib": {
                name: sorted(round(value, 1) for value in values) for name, values in memory.items()
            },
        },
    )


if __name__ == "__main__":
    main()
