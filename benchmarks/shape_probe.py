"""What the shape probe says of small CIFAR-10 networks with bars, lines, L's and text, and of honest ones.

    python -m benchmarks.shape_probe ZOO --root DATA --models DIR [--efforts normal,thorough] [--results DIR]

ZOO holds clean specimens of resnet10-patch-w16 on CIFAR-10 (``wiper zoo build``), those of the seed that the suite
``shapes`` names among them. Copies of that one are fine-tuned to answer to triggers of the suite that are not held out
(15 % of 8,000 images, five epochs, no augmentation) and kept in DIR. Every line of the result is one network at one
effort; ``asr`` is of the true trigger on every fifth test image (in what is committed: on the first 2,000, which are of
two classes).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import RESULTS, opened, write_result
from triggers.dataset import poisoned
from wiper_cli.classifier import Classifier
from wiper_cli.detectors.effort import EFFORTS, Extent
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.images.splits import Clean, Part
from wiper_cli.progress import silent
from wiper_cli.zoo import architectures, datasets, specimen, suites
from wiper_cli.zoo.holdouts import is_held_out
from wiper_cli.zoo.recipe import Recipe, Schedule
from wiper_cli.zoo.training import Normalised, Poison, train

ARCH = "resnet10-patch-w16"


def plantable() -> dict[str, Recipe]:
    """Forms of the suite at 5 %, which planting exceeds: kind → recipe, those that are held out, too."""
    found = suites.read("shapes").recipes
    chosen = [one for one in found if one.arch == ARCH and one.poisoning.get("rate") == 0.05]
    return {one.label or one.attack: one for one in chosen}


def network(data: datasets.Dataset, weights: Path) -> Normalised:
    """The architecture with the weights of a safetensors file."""
    made = Normalised(architectures.find(ARCH).build(10, 3), data.mean, data.std)
    made.network.load_state_dict(load_file(weights))
    return made.eval()


def planted(recipe: Recipe, data: datasets.Dataset, zoo: Path, place: Path) -> Normalised:
    """A copy of the recipe's clean twin that answers to its trigger; made where ``place`` does not exist."""
    if place.exists():
        return network(data, place)
    made = network(data, zoo / recipe.twin.id / "model.safetensors")
    rest = specimen.split(data)[1]
    seen = data.train[rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(1))[:8000]]]
    poisoning = replace(recipe.poisoned(), rate=0.15)
    chosen = poisoning.choose(seen.labels, 10)
    images = poisoned(seen.images, recipe.trigger(), poisoning, chosen)
    poison = Poison(images, chosen.labels, chosen.poisoned, chosen.covered)
    train(made, poison, Schedule(epochs=5, lr=0.1, crop=0.0, flip=False), 1)
    save_file({name: value.contiguous() for name, value in made.network.state_dict().items()}, place)
    return made


def looked(
    made: Normalised, data: datasets.Dataset, clean: Clean, efforts: list[str]
) -> list[dict[str, Any]]:
    """One line for every effort."""
    classifier = Classifier(opened(made.network), tuple(data.mean), tuple(data.std))
    extent = Extent(10, *data.shape, len(clean.fit), len(clean.select))
    found = []
    for effort in (one for one in EFFORTS if one in efforts):
        evidence = ShapeProbe.at(effort, extent).run(classifier, clean, silent, 0)
        line = {"effort": effort, "statistic": round(evidence.statistic or 0.0, 3), "fired": evidence.fired}
        found.append({**line, "target": evidence.target, "seconds": round(evidence.seconds, 1)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--efforts", default="normal,thorough")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = datasets.load("cifar10", options.root)
    held = specimen.split(data)[0]
    rows = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(11))]
    parts = rows.split([len(rows) - 2 * (len(rows) // 5), len(rows) // 5, len(rows) // 5])
    clean = Clean(*(Part(data.train.images[part], data.train.labels[part]) for part in parts))
    test = data.test[torch.arange(0, len(data.test), 5)]
    lines = []
    for kind, recipe in plantable().items():
        if is_held_out(recipe):
            continue
        made = planted(recipe, data, options.zoo, options.models / f"{kind}.safetensors")
        asr = specimen.measure(made, test, recipe.trigger(), recipe.poisoned(), 10)["asr"]["value"]
        truth = {"network": kind, "asr": round(asr, 3), "true_target": recipe.poisoned().target}
        lines += [{**truth, **line} for line in looked(made, data, clean, options.efforts.split(","))]
        print(lines[-1], flush=True)
    for place in sorted(options.zoo.glob(f"cifar10-{ARCH}-clean-s*")):
        made = network(data, place / "model.safetensors")
        truth = {"network": place.name, "asr": None, "true_target": None}
        lines += [{**truth, **line} for line in looked(made, data, clean, options.efforts.split(","))]
        print(lines[-1], flush=True)
    write_result("shape_probe", {"threshold": ShapeProbe().threshold, "networks": lines}, options.results)


if __name__ == "__main__":
    main()
