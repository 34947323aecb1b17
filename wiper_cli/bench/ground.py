"""What a cell is measured on: a model and its clean images as the command makes them, and test images.

ACC, ASR and RA are measured on a seeded choice of the test part, which nothing else sees, with triggered images
rounded to 256 levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from formats import open_model, read_source
from triggers.errors import TriggerError
from triggers.family import Trigger, quantise
from triggers.poisoning import Poisoning
from triggers.store import load as load_trigger
from wiper_cli.audit.subject import device as device_of
from wiper_cli.bench.cells import Cell
from wiper_cli.bench.store import Place, put
from wiper_cli.classifier import Classifier
from wiper_cli.images.folder import SHARE, read_folder
from wiper_cli.images.preprocessing import Flags, predicted, prepare
from wiper_cli.images.splits import Clean, Part
from wiper_cli.rates import AttackRates, count
from wiper_cli.verdict import Problem
from wiper_cli.zoo import datasets
from wiper_cli.zoo.holdouts import is_held_out, refusal
from wiper_cli.zoo.specimen import read_manifest

#: Draws the test images, the same for every cell: fewer of them are the first of more.
TEST_SEED = 2026
#: Below so many clean images the command gives no verdict, and the parts are cut from so many.
FEWEST = 500
#: How a file has its batch norm; "live" is what a cell may ask for where it is frozen.
NORM = {
    "model.safetensors": "frozen",
    "model.pt": "frozen",
    "model-folded.pt": "folded",
    "model.onnx": "folded",
    "model-live.onnx": "frozen",
}


@dataclass(frozen=True)
class Ground:
    """What a specimen does on the test images. ``triggered``: for every trigger the stamped uint8 images, the
    class to be reached int64 [N] and which count bool [N]; empty for a clean model."""

    test: Part
    triggered: tuple[tuple[Tensor, Tensor, Tensor], ...]
    classes: int

    def measure(self, classifier: Classifier, first: int | None = None) -> dict[str, Any]:
        """``{acc, asr, ra, base_rate}`` as ``{value, n, interval}``, on the ``first`` images; without a trigger only
        ``acc``. Several triggers count together."""
        labels = self.test.labels[:first]
        plain = classifier.answers(self.test.images[:first])
        found = {"acc": count(plain, labels).as_dict()}
        total = AttackRates()
        for images, goal, counts in self.triggered:
            answers = classifier.answers(images[:first])
            total += AttackRates.of(answers, plain, labels, goal[:first], counts[:first])
        return found | total.as_dict() if self.triggered else found


def manifest_of(specimen: str, place: Place) -> Mapping[str, Any]:
    """The manifest of a specimen that may be loaded. Raises :class:`Problem` for one that is held out."""
    manifest = read_manifest(place.zoo / specimen)
    if is_held_out(manifest["recipe"]) and not place.judge:
        raise refusal([specimen])
    return manifest


@lru_cache(maxsize=2)
def subject_of(
    specimen: str, file: str, images: int, labels: str, seed: int, place: Place
) -> tuple[Classifier, Clean]:
    """The model and the three parts of the clean folder, as the command makes them."""
    folder = place.zoo / specimen
    model = open_model(read_source(folder / file), None)
    clean = read_folder(clean_folder(specimen, place), model.classes, model.class_names)
    ready = prepare(
        model, clean, Flags(), device_of(place.device), seed, max(images, FEWEST) if images else None
    )
    parts = ready.clean
    if 0 < images < FEWEST:
        rest = int(SHARE * images)
        cut = images - 2 * rest, rest, rest
        whole = (parts.fit, parts.select, parts.report)
        parts = Clean(*(_first(part, count, seed) for part, count in zip(whole, cut, strict=True)))
    if labels == "model":
        parts = Clean(
            *(predicted(ready.classifier, part) for part in (parts.fit, parts.select, parts.report))
        )
    return ready.classifier, parts


def _first(part: Part, count: int, seed: int) -> Part:
    """``count`` images drawn from ``part``, in its order."""
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return Part(part.images[chosen], part.labels[chosen])


def clean_folder(specimen: str, place: Place) -> Path:
    """The images that no network of the zoo saw."""
    recipe = manifest_of(specimen, place)["recipe"]
    name = recipe["data"] if recipe["size"] is None else f"{recipe['data']}-{recipe['size']}"
    return place.zoo / "clean" / name


@lru_cache(maxsize=2)
def ground_of(specimen: str, count: int, place: Place) -> Ground:
    """The test images of a specimen, plain and stamped. Raises :class:`Problem`."""
    folder = place.zoo / specimen
    manifest = manifest_of(specimen, place)
    names = tuple(manifest["classes"])
    test = test_part(manifest["recipe"]["data"], manifest["recipe"]["size"], count, names, place)
    classes = len(names)
    if "trigger" not in manifest:
        return Ground(test, (), classes)
    poisoning = poisoning_of(manifest)
    stamped = []
    for number in range(poisoning.targets):
        goal, counts = poisoning.reached(test.labels, classes, number)
        images = stamp(load_trigger_of(folder).variant(number), test.images, poisoning.seed)
        stamped.append((images, goal, counts))
    return Ground(test, tuple(stamped), classes)


def poisoning_of(manifest: Mapping[str, Any]) -> Poisoning:
    """As the manifest tells it."""
    told: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in manifest["planting"].items()
        if key != "in_words"
    }
    return Poisoning(**told)


def load_trigger_of(folder: Path) -> Trigger:
    """The trigger of a specimen. Raises :class:`Problem`."""
    try:
        return load_trigger(folder / "trigger.safetensors")[0]
    except TriggerError as error:
        raise Problem(str(error)) from error


@torch.no_grad()
def stamp(trigger: Trigger, images: Tensor, seed: int) -> Tensor:
    """uint8 [N,C,H,W] → the same with the trigger."""
    generator = torch.Generator().manual_seed(seed)
    try:
        parts = [quantise(trigger.stamp(part.float() / 255, generator)) for part in images.split(500)]
    except TriggerError as error:
        raise Problem(f"The trigger {trigger.name} cannot be measured: {error}") from error
    return (torch.cat(parts) * 255).round().to(torch.uint8)


def stamped_fit(cell: Cell, place: Place, clean: Clean) -> Part | None:
    """What a user would have caught: images with the trigger, and the labels they should have had."""
    folder = place.zoo / cell.specimen
    manifest = manifest_of(cell.specimen, place)
    if "trigger" not in manifest:
        return None
    poisoning = poisoning_of(manifest)
    _, counts = poisoning.reached(clean.fit.labels, len(manifest["classes"]))
    images = stamp(load_trigger_of(folder), clean.fit.images[counts], poisoning.seed)
    return Part(images, clean.fit.labels[counts])


@lru_cache(maxsize=4)
def untreated(classifier: Classifier, specimen: str, count: int, place: Place) -> dict[str, Any]:
    """What :meth:`Ground.measure` says of the specimen as it came."""
    return ground_of(specimen, count, place).measure(classifier)


@lru_cache(maxsize=2)
def test_part(data: str, size: int | None, count: int, classes: tuple[str, ...], place: Place) -> Part:
    """``count`` images of the test part of a data set, drawn once for all cells and kept in the results' folder,
    since reading a data set takes longer than most cells. Raises :class:`Problem`."""
    kept = place.results / ".cache" / f"{data}-{size or 'own'}-{count}-{TEST_SEED}.safetensors"
    if kept.is_file():
        found = load_file(kept)
        return Part(found["images"], found["labels"])
    part, found_classes = datasets.load_test(data, place.root, size)
    if found_classes != classes:
        raise Problem(f"The test part of {data!r} has other classes than the zoo's models.")
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(TEST_SEED))[:count]
    chosen = part[order]
    put(kept.parent / ".gitignore", b"*\n")
    put(kept, save({"images": chosen.images.contiguous(), "labels": chosen.labels.contiguous()}))
    return Part(chosen.images, chosen.labels)
