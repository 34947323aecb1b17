"""What the detectors of a scan cost, by classes, pixels and effort, and whether the plan tells the truth.

    python -m benchmarks.scan_cost [--measure NETWORK:SIDE:CLASSES:EFFORT,…] [--results DIR]

Without ``--measure`` nothing is timed: the passes of one image through the network follow from the plan alone
(``wiper scan --dry-run``) and are the same on every machine. A measured case is a network of torchvision with random
weights on images of noise: its detectors run to their end, side by side with bare forward passes over the same images,
so that the ratio holds elsewhere. Cases measured before stay in ``results/scan_cost.json``; the page made of it is
``docs/results/scan-cost.md``.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, opened, write_result
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.audit.detection import look
from wiper_cli.audit.planning import planned
from wiper_cli.bench.figures import COLOURS, panels, saved
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.effort import EFFORTS, LEAST_SIDE, REDUCED, Effort, Extent, in_turn
from wiper_cli.images.splits import Clean, Part

CLASSES, SIDES = (10, 43, 100, 1000), (32, 64, 224)
#: Images of each part: what a scan takes of a folder with 1,500 images.
IMAGES = 500
PAGE = Path(__file__).resolve().parent.parent / "docs/results/scan-cost.md"
FIGURE = PAGE.with_suffix(".svg")


def passes(effort: Effort, classes: int, side: int) -> int:
    """Of one image, forward and backward, at full size; of 192 pixels and more half the side is taken to do."""
    extent = Extent(
        classes=classes, channels=3, height=side, width=side, fit=IMAGES, select=IMAGES, head=True,
        resolution=REDUCED if side * REDUCED >= LEAST_SIDE else 1.0,
    )  # fmt: skip
    plans = (kind.at(effort, extent).plan(extent) for kind in DETECTORS.values())
    return sum(plan.forward + plan.backward for plan in in_turn(plan for plan in plans if plan is not None))


def measured(name: str, side: int, classes: int, effort: Effort) -> dict[str, Any]:
    """One case, timed: the whole search and the better of two bare passes over the same images. Their ratio is one of
    processor seconds, which hang less on what else the machine does."""
    torch.manual_seed(0)
    network = getattr(import_torchvision().models, name)(weights=None, num_classes=classes).eval()
    images = torch.randint(0, 256, (3 * 100, 3, side, side), dtype=torch.uint8)
    labels = torch.arange(len(images)) % classes
    parts = [Part(images[i::3].contiguous(), labels[i::3]) for i in range(3)]
    classifier, clean = Classifier(opened(network), (0.5,) * 3, (0.5,) * 3), Clean(*parts)
    bare, worked = [], []
    classifier.lay_out(images)
    for _ in range(2):
        began, before = time.perf_counter(), time.process_time()
        classifier.logits(clean.select.images, batch=32)
        bare.append((time.perf_counter() - began) / len(clean.select))
        worked.append((time.process_time() - before) / len(clean.select))
    ahead = planned(classifier, clean, tuple(DETECTORS), effort)
    began, before = time.perf_counter(), time.process_time()
    evidence = look(ahead.detectors, classifier, clean, 0)
    seconds, processor = time.perf_counter() - began, time.process_time() - before
    return {
        "network": name,
        "side": side,
        "classes": classes,
        "effort": effort,
        "threads": torch.get_num_threads(),
        "passes": sum(plan.forward + plan.backward for plan in ahead.plans),
        "seconds": round(seconds, 1),
        "seconds_expected": round(ahead.cost.seconds(ahead.plans), 1),
        "forward_seconds": round(min(bare), 5),
        "processor_seconds": round(processor, 1),
        "in_forward_passes": round(processor / min(worked)),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "by_detector": {one.name: round(one.seconds, 1) for one in evidence},
    }


def figure(result: dict[str, Any]) -> Any:
    """Passes over the number of classes, a line an effort, a panel a size of images."""
    drawn, axes = panels(1, len(SIDES))
    for axis, side in zip(axes[0], SIDES, strict=True):
        rows = [row for row in result["passes"] if row["side"] == side]
        for colour, effort in zip(COLOURS, EFFORTS, strict=False):
            axis.plot(
                [row["classes"] for row in rows],
                [row[effort] for row in rows],
                "o-",
                ms=3,
                color=colour,
                label=effort,
            )
        axis.set(xscale="log", yscale="log", xlabel="classes", title=f"{side} pixels")
    axes[0][0].set_ylabel("passes of one image")
    axes[0][0].legend()
    return drawn


def page(result: dict[str, Any]) -> str:
    """Two tables."""
    lines = [
        "# What a scan costs",
        "",
        "Made by `python -m benchmarks.scan_cost` from `benchmarks/results/scan_cost.json`.",
        "",
        "Passes of one image through the network, forward and backward, as the plan of a scan has them "
        f"(`wiper scan --dry-run`), with {IMAGES} images in each part of the clean set. They are the same on every "
        "machine. At 224 pixels most are made on images of half the side and count a quarter; of a network that does "
        "not answer alike on these they are as many as at 32.",
        "",
        "| classes | pixels | " + " | ".join(EFFORTS) + " |",
        "|---:|---:|" + "---:|" * len(EFFORTS),
    ]
    for row in result["passes"]:
        cells = " | ".join(f"{row[effort]:,}" for effort in EFFORTS)
        lines.append(f"| {row['classes']:,} | {row['side']} | {cells} |")
    lines += ["", f"![Passes by classes, pixels and effort]({FIGURE.name})"]
    if not result["measured"]:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "Searches that were run to their end, networks with random weights on images of noise. Seconds are of one "
        "machine; the ratio to a bare forward pass of one image over the same images, measured in the same run, is "
        "what carries over. *Expected* is what the plan said before. Such a network puts all of noise in one class, so "
        "that class-map, which follows several, ends at once: its passes, which the plan and *expected* count, are "
        "not in the seconds. Where patch-inversion has a dash, the run is from before it and additive-inversion were "
        "among the searches, and every row without processor seconds, whose ratio is one of seconds, is from before "
        "the searches in images of 96 pixels and more left out what this page's passes lack: at 224 pixels and quick "
        "effort 24 to 38 in a hundred, at normal 18 to 23. Those on one thread shared the machine with other work.",
        "",
        "The goals on two cores (at 224 pixels and ten classes 90 s for quick and 6 minutes for normal on a ResNet-18, "
        "with 1,000 classes 4 and 15 minutes on an EfficientNet-Lite0, below 2.5 GiB) are not shown to hold: no row "
        "here is of a whole search as it is now on two idle cores.",
        "",
        "| network | pixels | classes | effort | threads | seconds | of the processor | of patch-inversion | expected "
        "| in forward passes | peak GiB |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['network']} | {one['side']} | {one['classes']:,} | {one['effort']} | {one['threads']} "
        f"| {one['seconds']:.0f} | {one.get('processor_seconds', '–')} "
        f"| {one['by_detector'].get('patch-inversion', '–')} | {one['seconds_expected']:.0f} "
        f"| {one['in_forward_passes']:,} | {one['peak_gib']:.1f} |"
        for one in result["measured"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", default="")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = options.results / "scan_cost.json"
    known = json.loads(before.read_text())["measured"] if before.exists() else []
    for case in filter(None, options.measure.split(",")):
        name, side, classes, effort = case.split(":")
        key = {"network": name, "side": int(side), "classes": int(classes), "effort": effort}
        known = [one for one in known if any(one[field] != value for field, value in key.items())]
        known.append(measured(name, int(side), int(classes), next(e for e in EFFORTS if e == effort)))
        print(json.dumps(known[-1]), flush=True)
    result = {
        "passes": [
            {"classes": k, "side": side, **{effort: passes(effort, k, side) for effort in EFFORTS}}
            for k in CLASSES
            for side in SIDES
        ],
        "measured": known,
    }
    write_result("scan_cost", result, options.results)
    if options.results == RESULTS:
        PAGE.write_text(page(result))
        FIGURE.write_bytes(saved("scan-cost", lambda: figure(result)) or b"")


if __name__ == "__main__":
    main()
