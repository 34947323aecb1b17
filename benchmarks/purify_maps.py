"""What ``wiper purify`` leaves of backdoors that send each class to another one.

    python -m benchmarks.purify_maps ZOO --root DATA --work DIR [--results DIR]

ZOO holds specimens of ``badnet`` with all-to-all labels (``wiper zoo train --labelling all-to-all``), DATA their data
sets (``DATA/NAME/{train,test}``). Each folded ONNX file is purified by the command with its defaults on the test
images, of which it takes 5,000; the true trigger, which it is not told, is measured on all of them before and after:
``asr`` is the share that goes to the next class. What is written stays in WORK and is not made again.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write_result
from formats import open_model, read_source
from wiper_cli.classifier import Classifier
from wiper_cli.worker import launcher
from wiper_cli.zoo import datasets, specimen
from wiper_cli.zoo.recipe import FILE_WORD, Recipe
from wiper_cli.zoo.training import predict


def rates(path: Path, recipe: Recipe, data: datasets.Dataset) -> dict[str, float]:
    """Of the network in ``path`` on the test images, with the true trigger and without."""
    model = open_model(read_source(path))
    assert model.network is not None
    network = Classifier(model, tuple(data.mean), tuple(data.std)).network
    assert network is not None
    found = specimen.measure(network, data.test, recipe.trigger(), recipe.poisoned(), len(data.classes))
    answers = predict(network, data.test.images)
    acc = float((answers == data.test.labels).double().mean())
    return {"acc": round(acc, 4)} | {
        name: round(found[name]["value"], 4) for name in ("asr", "ra", "base_rate")
    }


def examined(place: Path, recipe: Recipe, root: Path, work: Path) -> dict[str, Any]:
    """One line of the result."""
    written, report = work / f"{place.name}.onnx", work / f"{place.name}.json"
    if not report.exists():
        subprocess.run(
            launcher.command(
                "-m", "wiper_cli.main", "purify", str(place / "model.onnx"), "-o", str(written),
                "--clean", str(root / recipe.data / "test"), "-f", f"json={report}", "--quiet",
            ),
            env=launcher.environment(), check=False,
        )  # fmt: skip
    told = json.loads(report.read_text(encoding="utf-8"))
    data = datasets.load(recipe.data, root)
    names = ("fired", "unlearned", "measured", "probes_fired", "accepted", "reason", "seconds")
    return {
        "specimen": place.name,
        "before": rates(place / "model.onnx", recipe, data),
        "after": rates(written, recipe, data) if written.exists() else None,
        "rounds": [{name: one[name] for name in names} for one in told["purification"]["rounds"]],
        "accepted": told["purification"]["accepted"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    lines = []
    for manifest in sorted(options.zoo.glob(f"*{options.only}*/manifest.json")):
        told = dict(specimen.read_manifest(manifest.parent)["recipe"])
        recipe = Recipe(poisoning=told.pop(FILE_WORD), **told)
        if recipe.poisoned().labelling == "all-to-all":
            lines.append(examined(manifest.parent, recipe, options.root, options.work))
    write_result("purify_maps", {"networks": lines}, options.results)


if __name__ == "__main__":
    main()
