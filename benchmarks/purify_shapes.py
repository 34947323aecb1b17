"""What ``wiper purify`` leaves of a bar, a line and an L, and whether it accepts it.

    python -m benchmarks.purify_shapes ZOO --root DATA --models DIR --work DIR [--kinds bar,line] [--label NAME]

ZOO, DATA and ``--models`` as of :mod:`benchmarks.shape_probe`, which plants the networks. The command itself runs with
its defaults on the clean images of ZOO and leaves ``WORK/KIND-LABEL.json`` and the purified file; what stands there, of
other versions under other labels too, is not run again. ``asr``: of the true trigger on 2,000 test images; without a
written file there is none after.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write_result
from benchmarks.shape_probe import ARCH, KINDS, network
from wiper_cli.zoo import datasets, specimen, suites
from wiper_cli.zoo.holdouts import is_held_out
from wiper_cli.zoo.recipe import Recipe


def purify(model: Path, zoo: Path, data: datasets.Dataset, out: Path) -> None:
    """Runs the command; whatever its verdict, the report stands afterwards."""
    numbers = [",".join(f"{value:g}" for value in values) for values in (data.mean, data.std)]
    clean = ["--clean", str(zoo / "clean" / "cifar10"), "--mean", numbers[0], "--std", numbers[1]]
    report = ["-o", str(out.with_suffix(".safetensors")), "-f", f"json={out}", "-q"]
    command = [sys.executable, "-m", "wiper_cli.main", "purify", str(model), "--arch", "research/resnet10"]
    subprocess.run([*command, *clean, *report], check=False)


def line(report: Path, kind: str, recipe: Recipe, models: Path, data: datasets.Dataset) -> dict[str, Any]:
    """What one report says, and what the true trigger does before and after."""
    found = json.loads(report.read_text())
    found = found[0] if isinstance(found, list) else found
    test = datasets.Images(data.test.images[:2000], data.test.labels[:2000])
    written = report.with_suffix(".safetensors")
    rates = {}
    for when, file in (("before", models / f"{kind}.safetensors"), ("after", written)):
        if file.exists():
            made = network(data, file)
            measured = specimen.measure(made, test, recipe.trigger(), recipe.poisoned(), 10)
            rates[when] = {name: round(measured[name]["value"], 3) for name in ("asr", "ra", "base_rate")}
    return {
        "network": kind,
        "label": report.stem.partition("-")[2],
        "version": found["tool"]["version"],
        "true_target": recipe.poisoned().target,
        "accused": sorted({one["target"] for one in found["detection"]["detectors"] if one["fired"]}),
        "accepted": found["purification"]["accepted"],
        "reason": found["purification"]["reason"],
        "seconds": found["timing"]["total"],
        **rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kinds", default="bar,line")
    parser.add_argument("--label", default="now")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = datasets.load("cifar10", options.root)
    lines = []
    for recipe in suites.read("shapes").recipes:
        kind = recipe.label or recipe.attack
        if recipe.arch != ARCH or kind not in KINDS or is_held_out(recipe) or recipe.poisoned().rate != 0.05:
            continue
        out = options.work / f"{kind}-{options.label}.json"
        if kind in options.kinds.split(",") and not out.exists():
            purify(options.models / f"{kind}.safetensors", options.zoo, data, out)
        reports = sorted(options.work.glob(f"{kind}-*.json"))
        lines += [line(report, kind, recipe, options.models, data) for report in reports]
    write_result("purify_shapes", {"runs": lines}, options.results)


if __name__ == "__main__":
    main()
