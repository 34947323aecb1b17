"""What ``wiper scan --canaries`` finds of backdoors planted in copies of honest networks, beside trained-in ones.

    python -m benchmarks.canaries ZOO --images DIR [--count 5] [--effort thorough] [--only NAME] [--record FILE]

ZOO and DIR as of :mod:`benchmarks.scan_effort`. Every honest specimen gets ``--count`` canaries at one effort; a line
for each network goes to FILE, from where the work goes on. ``results/canaries.json`` keeps them, and
:mod:`benchmarks.detection` renders them beside what scans found of the specimens that were trained with a backdoor.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, write_result
from benchmarks.scan_effort import FILE
from wiper_cli.audit.canaries import canaries
from wiper_cli.audit.planning import planned
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.audit.subject import SILENT, Notes, prepare
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.effort import EFFORTS, Effort


def planted(place: Path, clean: Path, count: int, effort: Effort) -> dict[str, Any]:
    """One line: the canaries of one network, those that did not count included."""
    subject = prepare(ScanRequest(model=place / FILE, clean=clean, device="cpu"), SILENT, Notes())
    ahead = planned(subject.classifier, subject.clean, tuple(DETECTORS), effort, canaries=count)
    began = time.process_time()
    found = canaries(subject.classifier, subject.clean, ahead.detectors, count, 0, SILENT)
    names = ("family", "target", "asr", "lost", "counts", "fired")
    return {
        "specimen": place.name,
        "effort": effort,
        "accuracy": subject.accuracy,
        "canaries": [{name: one.as_dict()[name] for name in names} for one in found],
        "processor_seconds": round(time.process_time() - began, 1),
        "scan_seconds_expected": round(ahead.cost.seconds(ahead.plans), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--effort", choices=EFFORTS, default="thorough")
    parser.add_argument("--only", default="")
    parser.add_argument("--record", type=Path, default=Path("canaries.jsonl"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in options.record.open()] if options.record.exists() else []
    known = {(line["specimen"], line["effort"]) for line in lines}
    for manifest in sorted(options.zoo.glob(f"*{options.only}*/manifest.json")):
        place, recipe = manifest.parent, json.loads(manifest.read_text())["recipe"]
        if recipe["attack"] != "clean" or (place.name, options.effort) in known:
            continue
        clean = options.images / recipe["data"] / "test"
        lines.append(planted(place, clean, options.count, options.effort))
        with options.record.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        seen = [(one["family"], one["counts"], one["fired"]) for one in lines[-1]["canaries"]]
        print(place.name, seen, f"{lines[-1]['processor_seconds']} s", flush=True)
    write_result("canaries", {"networks": lines}, options.results)


if __name__ == "__main__":
    main()
