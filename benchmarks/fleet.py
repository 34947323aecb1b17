"""How many models a machine scans in an hour, one at a time and side by side, and what it takes to go on.

    python -m benchmarks.fleet [--models 8] [--jobs 1,2] [--effort quick]

Runs ``wiper scan FOLDER --jobs N --output-dir DIR`` over copies of the digits' honest twin (examples/digits), each run
into a new folder, one thread a process, nothing cached; then the last run once more, which takes every verdict from its
folder. Processor seconds are those of all processes of a run. Writes ``benchmarks/results/fleet.json`` and the page
``docs/results/fleet.md``; with ``--page`` the page alone, from the result.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import fleet_lost
from wiper_cli.commands.shared.example_files import example_folder

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = ROOT / "benchmarks/results/fleet.json", ROOT / "docs/results/fleet.md"
#: Models of a night, hours of it, for the estimate.
NIGHT, HOURS = 100_000, 8


def scan(folder: Path, out: Path, jobs: int, effort: str) -> dict[str, float]:
    """One run; seconds of the clock and of the processors, and the load of the machine as it began."""
    command = [
        sys.executable, "-m", "wiper_cli.main", "scan", folder, "--clean", example_folder() / "clean", "--effort",
        effort, "--device", "cpu", "--jobs", str(jobs), "--output-dir", out, "-q",
    ]  # fmt: skip
    load = os.getloadavg()[0]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"the scan ended with {done.returncode}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall": round(time.monotonic() - began, 2),
        "processor": round(processor, 2),
        "load": round(load, 1),
    }


def measure(count: int, jobs: list[int], effort: str) -> dict[str, Any]:
    """Every run, and the last one again."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "models"
        folder.mkdir()
        for number in range(count):
            shutil.copy(example_folder() / "twin.safetensors", folder / f"{number:04}.safetensors")
        for number in jobs:
            rows.append({"jobs": number, **scan(folder, Path(place) / f"out-{number}", number, effort)})
        again = scan(folder, Path(place) / f"out-{jobs[-1]}", jobs[-1], effort)
    return {
        "benchmark": "fleet",
        "settings": {"models": count, "effort": effort, "cores": os.cpu_count()},
        "runs": rows,
        "again": {"jobs": jobs[-1], **again},
    }


def page(result: dict[str, Any], lost: dict[str, Any]) -> str:
    """The page, from the results alone. ``lost``: that of :mod:`benchmarks.fleet_lost`."""
    asked, runs, again = result["settings"], result["runs"], result["again"]
    count, first = asked["models"], runs[0]
    each = first["processor"] / count
    rows = [
        [
            run["jobs"], f"{run['wall']:.0f}", f"{3600 * count / run['wall']:,.0f}",
            f"{first['wall'] / run['wall']:.2f}", f"{run['processor'] / count:.1f}", f"{run['load']:.1f}",
        ]
        for run in runs
    ]  # fmt: skip
    return f"""# Throughput of a fleet

Made by `python -m benchmarks.fleet` from `benchmarks/results/fleet.json`.

`wiper scan models/ --jobs N --output-dir DIR --effort {asked["effort"]}` over {count} copies of a small network for
32x32 images, on {asked["cores"]} cores that other work shared: the load of the machine as each run began is in the
table; speeds are too low for it, and their ratio is not that of a free machine. Processor seconds count the work of all
processes and hardly depend on the load.

| jobs | seconds | models an hour | times as fast as one | processor seconds a model | load |
|---:|---:|---:|---:|---:|---:|
{chr(10).join("| " + " | ".join(map(str, row)) + " |" for row in rows)}

The same command again, with all verdicts in DIR, took {again["processor"] / count:.2f} processor seconds a model,
{again["processor"] / runs[-1]["processor"]:.2f} of those of the scan.

On paper, from these processor seconds and not tried: {NIGHT:,} such models in a night of {HOURS} hours are
{NIGHT * each / 3600:,.0f} core hours, {math.ceil(NIGHT * each / (HOURS * 3600))} cores. A network for 224 pixels takes
as many times more as [scan-cost.md](scan-cost.md) says.
{_losses(lost)}"""


def _losses(lost: dict[str, Any]) -> str:
    asked, first, second = lost["settings"], lost["first"], lost["second"]
    count = asked["models"]
    detectors = f"`--effort {asked['effort']} --detectors {asked['detectors']}`"
    return f"""
## What is lost when workers and the driver are killed

Made by `python -m benchmarks.fleet_lost` from `benchmarks/results/fleet_lost.json`.

{count} small networks, no two files alike, on a Ray cluster of one machine with {asked["cores"]} cores and other work
(load {asked["load"]:.0f}), {asked["workers"]} scans at once, with {detectors} alone: what is tried is the
fleet, not what a scan finds. A worker that was scanning was killed after a wait drawn at random,
{asked["every"]:.0f} s in the mean (seed {asked["seed"]}), and the driver once; then the same command was given again.

| driver | seconds | workers killed | reports at its end |
|---|---:|---:|---:|
| first, killed | {first["seconds"]:.0f} | {first["killed"]} | {first["reports"]} |
| second | {second["seconds"]:.0f} | {second["killed"]} | {second["reports"]} |

Verdicts at the end: {lost["verdicts"]} of {count} models, {lost["twice"]} with two, {lost["as_expected"]} as expected
(each tenth network has a backdoor, the others are its honest twin). The second driver took {lost["taken"]} from what
stood; models with a report that it scanned again: {lost["again"]}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--page", action="store_true")
    option = parser.parse_args()
    if not option.page:
        jobs = [int(number) for number in option.jobs.split(",")]
        RESULT.write_text(json.dumps(measure(option.models, jobs, option.effort), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text()), json.loads(fleet_lost.RESULT.read_text())))


if __name__ == "__main__":
    main()
