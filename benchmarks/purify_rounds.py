"""What each round of ``wiper purify`` leaves of a bar, a line, an L and a text, and of an honest network's accuracy.

    python -m benchmarks.purify_rounds ZOO --root DATA --work DIR [--only NAME]

ZOO: of ``wiper zoo build shapes --only resnet10-patch-w16-…``, the specimens trained with 5 % poison and their
clean twin. Each safetensors file there is purified with the defaults on the clean images of ZOO; what came of it stays
in WORK and is not run again, so that a run that was interrupted goes on. ``asr`` and ``ra``: of the true trigger, which
wiper is not told, on 2,000 test images, before and after every round, accepted or not; ``acc``: on the same images.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load

from benchmarks.common import RESULTS, write_result
from benchmarks.shape_probe import ARCH, KINDS
from formats import Edit, inspect, read_source, write_edit
from wiper_cli.audit.pipeline import purify
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.classifier import correct
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.methods.unlearn import Unlearn
from wiper_cli.purifiers.methods.unlearn.method import purify as unlearn
from wiper_cli.zoo import architectures, datasets, specimen, suites
from wiper_cli.zoo.holdouts import is_held_out
from wiper_cli.zoo.recipe import Recipe
from wiper_cli.zoo.training import Normalised

EDITS: list[Edit] = []


@dataclass(frozen=True)
class Watched(Unlearn):
    """The default method, which leaves the outcome of every round."""

    def run(self, task: Task) -> Purified:
        purified = unlearn(self, task)
        EDITS.append(purified.edit)
        return purified


def true_rates(recipe: Recipe, weights: bytes, data: datasets.Dataset) -> dict[str, float]:
    """What a safetensors file does with test images and with the true trigger, where there is one."""
    network = Normalised(architectures.find(ARCH).build(10, 3), data.mean, data.std)
    network.network.load_state_dict(load(weights))
    network.eval()
    test = datasets.Images(data.test.images[:2000], data.test.labels[:2000])
    right = correct(lambda x: network(x.float() / 255), test.images, test.labels)
    found = {"acc": right / len(test.labels)}
    if recipe.attack != "clean":
        measured = specimen.measure(network, test, recipe.trigger(), recipe.poisoned(), 10)
        found |= {name: measured[name]["value"] for name in ("asr", "ra", "base_rate")}
    return {name: round(value, 4) for name, value in found.items()}


def examined(recipe: Recipe, zoo: Path, data: datasets.Dataset) -> dict[str, Any]:
    """One line of the result."""
    model = zoo / recipe.id / "model.safetensors"
    source = read_source(model)
    EDITS.clear()
    began = time.monotonic()
    request = PurifyRequest(
        model=model, clean=zoo / "clean" / "cifar10", arch="research/resnet10", method=Watched()
    )
    found = purify(request)
    seconds = time.monotonic() - began
    names = ("fired", "accused", "unlearned", "probes_fired", "accepted", "reason", "kept", "seconds")
    rounds = [
        {
            **{name: one[name] for name in names},
            **true_rates(recipe, write_edit(source, inspect(source), edit)[""], data),
        }
        for one, edit in zip(found.purification["rounds"], EDITS, strict=True)
    ]
    return {
        "network": recipe.label or recipe.attack,
        "specimen": recipe.id,
        "true_target": None if recipe.attack == "clean" else recipe.poisoned().target,
        "before": true_rates(recipe, source.data, data),
        "rounds": rounds,
        "accepted": found.accepted,
        "seconds": round(seconds, 1),
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
    data = datasets.load("cifar10", options.root)
    planted = [
        one
        for one in suites.read("shapes").recipes
        if one.arch == ARCH and (one.label or one.attack) in KINDS and one.poisoned().rate == 0.05
    ]
    lines = []
    for recipe in [*planted, replace(planted[0].twin, label="")]:
        place = options.work / f"{recipe.id}.json"
        stands = (options.zoo / recipe.id / "model.safetensors").exists() and not is_held_out(recipe)
        if stands and not place.exists() and options.only in recipe.id:
            place.write_text(json.dumps(examined(recipe, options.zoo, data)))
        if place.exists():
            lines.append(json.loads(place.read_text()))
    write_result("purify_rounds", {"networks": lines}, options.results)


if __name__ == "__main__":
    main()
