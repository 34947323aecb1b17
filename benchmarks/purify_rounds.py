"""What each round of ``wiper purify`` leaves of a bar, a line, an L and a text, and of an honest network's accuracy.

    python -m benchmarks.purify_rounds ZOO --root DATA --models DIR --work DIR [--only NAME]

ZOO, DATA and ``--models`` as of :mod:`benchmarks.shape_probe`, which plants the networks. Each is purified with the
defaults on the clean images of ZOO; what came of it stays in WORK and is not run again, so that a run that was
interrupted goes on. ``asr`` and ``ra``: of the true trigger, which wiper is not told, on 2,000 test images, before and
after every round, accepted or not; ``acc``: on the same images. ``clean``: the network that triggers were planted in.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write_result
from benchmarks.shape_probe import ARCH, KINDS, network
from formats import Edit, inspect, read_source, write_edit
from wiper_cli.audit.pipeline import purify
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.classifier import correct
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.methods.unlearn import Unlearn
from wiper_cli.purifiers.methods.unlearn.method import purify as unlearn
from wiper_cli.zoo import datasets, specimen, suites
from wiper_cli.zoo.holdouts import is_held_out
from wiper_cli.zoo.recipe import Recipe

EDITS: list[Edit] = []


@dataclass(frozen=True)
class Watched(Unlearn):
    """The default method, which leaves the outcome of every round."""

    def run(self, task: Task) -> Purified:
        purified = unlearn(self, task)
        EDITS.append(purified.edit)
        return purified


def true_rates(
    recipe: Recipe | None, model: Path, edit: Edit, work: Path, data: datasets.Dataset
) -> dict[str, float]:
    """What ``model`` after ``edit`` does with test images and, where one was planted, with the true trigger."""
    source, written = read_source(model), work / "edited.safetensors"
    written.write_bytes(write_edit(source, inspect(source), edit)[""])
    made = network(data, written)
    test = datasets.Images(data.test.images[:2000], data.test.labels[:2000])
    right = correct(lambda x: made(x.float() / 255), test.images, test.labels)
    found = {"acc": right / len(test.labels)}
    if recipe is not None:
        measured = specimen.measure(made, test, recipe.trigger(), recipe.poisoned(), 10)
        found |= {name: measured[name]["value"] for name in ("asr", "ra", "base_rate")}
    return {name: round(value, 4) for name, value in found.items()}


def examined(
    kind: str, recipe: Recipe | None, model: Path, clean: Path, work: Path, data: datasets.Dataset
) -> dict[str, Any]:
    """One line of the result."""
    EDITS.clear()
    began = time.monotonic()
    found = purify(
        PurifyRequest(
            model=model,
            clean=clean,
            mean=tuple(data.mean),
            std=tuple(data.std),
            arch="research/resnet10",
            method=Watched(),
        )
    )
    seconds = round(time.monotonic() - began, 1)
    names = ("fired", "accused", "unlearned", "probes_fired", "accepted", "reason", "kept", "seconds")
    rounds = [
        {**{name: one[name] for name in names}, **true_rates(recipe, model, edit, work, data)}
        for one, edit in zip(found.purification["rounds"], EDITS, strict=True)
    ]
    return {
        "network": kind,
        "true_target": None if recipe is None else recipe.poisoned().target,
        "before": true_rates(recipe, model, Edit({}), work, data),
        "rounds": rounds,
        "accepted": found.accepted,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data = datasets.load("cifar10", options.root)
    networks: dict[str, tuple[Recipe | None, Path]] = {}
    for recipe in suites.read("shapes").recipes:
        kind = recipe.label or recipe.attack
        if recipe.arch != ARCH or kind not in KINDS or is_held_out(recipe) or recipe.poisoned().rate != 0.05:
            continue
        networks[kind] = recipe, options.models / f"{kind}.safetensors"
        networks["clean"] = None, options.zoo / recipe.twin.id / "model.safetensors"
    lines = []
    for kind, (recipe, model) in sorted(networks.items()):
        place = options.work / f"{kind}.json"
        if model.exists() and not place.exists() and options.only in kind:
            own = options.work / kind
            own.mkdir(exist_ok=True)
            found = examined(kind, recipe, model, options.zoo / "clean" / "cifar10", own, data)
            place.write_text(json.dumps(found))
        if place.exists():
            lines.append(json.loads(place.read_text()))
    write_result("purify_rounds", {"networks": lines}, options.results)


if __name__ == "__main__":
    main()
