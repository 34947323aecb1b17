"""Runs one cell in this process.

A defence gets what the command would give it: the clean folder in three parts, and the suspects and transforms of
the scan; never the trigger. ACC, ASR and RA are measured on a seeded choice of the test part, which nothing else
sees, with triggered images rounded to 256 levels.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from formats import FormatError, open_model, read_source
from triggers.errors import TriggerError
from triggers.family import Trigger, quantise
from triggers.poisoning import Poisoning
from triggers.store import load as load_trigger
from wiper_cli import __version__
from wiper_cli.audit.detection import detect
from wiper_cli.audit.environment import environment
from wiper_cli.audit.subject import device as device_of
from wiper_cli.bench.cells import Cell, Store, put
from wiper_cli.bench.watching import Watched
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS
from wiper_cli.images.folder import SHARE, read_folder
from wiper_cli.images.preprocessing import Flags, predicted, prepare
from wiper_cli.images.splits import Clean, Part
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress, silent
from wiper_cli.purifiers.contract import Task
from wiper_cli.rates import AttackRates, count, effectiveness
from wiper_cli.reports.plain import finite
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.zoo import datasets
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
class Place:
    """``zoo``: folder of specimens. ``root``: where data sets are looked for. ``threads``: 0 leaves them alone."""

    zoo: Path
    results: Path
    root: Path | None = None
    device: str = "auto"
    threads: int = 0


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


def run(cell: Cell, place: Place, progress: Progress = silent) -> dict[str, Any]:
    """Measures ``cell`` and writes its outcome. What a method or file refuses is an outcome too: ``refused``, with
    the sentence. Raises :class:`Problem` where the fault is not the cell's: no specimen, no test images, no room.
    """
    if place.threads:
        torch.set_num_threads(place.threads)
    store, folder = Store(place.results), place.zoo / cell.specimen
    manifest = read_manifest(folder)
    if cell.file not in manifest["files"]:
        raise Problem(f"{folder} has no file {cell.file}.")
    ground = ground_of(cell.specimen, cell.test_images, place)
    began = time.perf_counter()
    _forget_peak()
    outcome: dict[str, Any] = {
        "tool": __version__,
        "model": {
            "sha256": manifest["files"][cell.file]["sha256"],
            "bn": "live" if cell.live else NORM[cell.file],
        },
        "twin": manifest.get("twin"),
        "planting": (manifest.get("planting") or {}).get("in_words"),
    }
    try:
        outcome |= _KINDS[cell.kind](cell, place, ground, progress)
    except (Problem, FormatError) as refusal:
        outcome |= {"refused": str(refusal)}
    outcome |= {
        "seconds_in_all": round(time.perf_counter() - began, 3),
        "peak_bytes": _peak(),
        "environment": environment(),
        "device": device_of(place.device).type,
    }
    # Six digits are more than any image count gives.
    return store.write(cell, finite(outcome, 6))


def _purify(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    settings = cell.purifier()
    classifier, clean = subject_of(cell.specimen, cell.file, cell.images, cell.labels, cell.seed, place)
    before = _before(classifier, cell.specimen, cell.test_images, place)
    suspects: list[int] = []
    recovered: list[Recovered] = []
    if settings.uses_scan:
        suspects, recovered = findings(cell, place, progress)
    triggered = _stamped_fit(cell, place, clean) if "triggered" in settings.needs else None
    given = classifier
    watched = None
    if cell.watch:
        given = watched = Watched.of(
            classifier, clean.fit, lambda one: ground.measure(one, first=1000), settings
        )
        progress = watched.progress(progress)
    seen = _Count(given)
    began, busy = time.perf_counter(), time.process_time()
    try:
        task = Task(given, clean, suspects, recovered, progress, cell.seed, triggered, cell.live)
        purified = settings.run(task)
    finally:
        seen.remove()
    if place.device != "cpu" and torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    treated = classifier.with_edit(purified.edit)
    after = ground.measure(treated)
    model, edited = classifier.model, treated.model
    moved = {}
    if model.network is not None and edited.network is not None:
        old, new = model.named(model.network), edited.named(edited.network)
        moved = {
            name: _moved(old[name].detach(), new[name].detach())
            for name in purified.edit.tensors
            if name in old
        }
    return {
        "settings": asdict(settings),
        "parts": {"fit": len(clean.fit), "select": len(clean.select), "report": len(clean.report)},
        "scan": {"suspects": suspects, "recovered": len(recovered)} if settings.uses_scan else None,
        "before": before,
        "after": after,
        "der": _der(before, after),
        "seconds": round(seconds - (watched.seconds if watched else 0.0), 3),
        "cpu_seconds": None if watched else round(busy, 3),
        "images_seen": None if watched else seen.images,
        "head": model.head.weight if model.head else None,
        "moved": moved,
        "history": [asdict(epoch) for epoch in purified.history],
        "notes": list(purified.notes),
        "watched": watched.found if watched else None,
    }


def _der(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    if "asr" not in before:
        return None
    values = (side[key]["value"] for key in ("asr", "acc") for side in (before, after))
    return effectiveness(*values)


def _moved(old: Tensor, new: Tensor) -> dict[str, float]:
    """How far one tensor moved, and how large it was: mean and largest |w - w0|, largest |w0|, share over 1."""
    change, size = (new.to(old.device) - old).abs().double(), old.abs().double()
    return {
        "mean": float(change.mean()),
        "largest": float(change.max()),
        "largest_weight": float(size.max()),
        "over_one": int((size > 1).sum()),
        "of": old.numel(),
    }


def _scan(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    classifier, clean = subject_of(cell.specimen, cell.file, cell.images, cell.labels, cell.seed, place)
    names = classifier.model.class_names or [str(k) for k in range(classifier.classes)]
    began = time.perf_counter()
    scanned = detect(classifier, clean, DETECTORS, names, cell.seed, progress)
    judged, recovered = scanned.judged, scanned.recovered
    tensors = {
        f"{i}.{name}": value.contiguous()
        for i, one in enumerate(recovered)
        for name, value in one.parameters.items()
    }
    put(Store(place.results).path(cell, ".safetensors"), save(tensors))
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "verdict": judged.verdict.value,
        "suspects": list(dict.fromkeys([*judged.accused, *judged.suspects])),
        "accused": list(judged.accused),
        "recovered": [{"family": r.family, "target": r.target, "facts": dict(r.facts)} for r in recovered],
        "detectors": [
            {
                key: getattr(piece, key)
                for key in ("name", "ran", "reason", "statistic", "threshold", "fired", "target")
            }
            for piece in scanned.evidence
        ],
    }


def findings(cell: Cell, place: Place, progress: Progress) -> tuple[list[int], list[Recovered]]:
    """Suspects and recovered transforms as ``wiper purify`` hands them on; scanned once, then kept."""
    scan, store = cell.scan(), Store(place.results)
    tensors = store.path(scan, ".safetensors")
    manifest = read_manifest(place.zoo / cell.specimen)
    found = store.read(scan, manifest["files"][cell.file]["sha256"])
    if found is None or ("refused" not in found and not tensors.is_file()):
        found = run(scan, place, progress)
    if "refused" in found:
        raise Problem(f"The scan was refused: {found['refused']}", ExitCode.NO_VERDICT)
    values = load_file(tensors)
    recovered = []
    for i, one in enumerate(found["recovered"]):
        own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{i}.")}
        recovered.append(Recovered(one["family"], one["target"], own, one["facts"]))
    return found["suspects"], recovered


def _salience(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    from wiper_cli.bench.units import scored

    classifier, clean = subject_of(cell.specimen, cell.file, cell.images, cell.labels, cell.seed, place)
    return scored(cell, classifier, clean, ground)


_KINDS: Mapping[str, Callable[[Cell, Place, Ground, Progress], dict[str, Any]]] = {
    "purify": _purify,
    "scan": _scan,
    "salience": _salience,
}


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
    recipe = read_manifest(place.zoo / specimen)["recipe"]
    name = recipe["data"] if recipe["size"] is None else f"{recipe['data']}-{recipe['size']}"
    return place.zoo / "clean" / name


@lru_cache(maxsize=2)
def ground_of(specimen: str, count: int, place: Place) -> Ground:
    """The test images of a specimen, plain and stamped. Raises :class:`Problem`."""
    folder = place.zoo / specimen
    manifest = read_manifest(folder)
    names = tuple(manifest["classes"])
    test = test_part(manifest["recipe"]["data"], manifest["recipe"]["size"], count, names, place)
    classes = len(names)
    if "trigger" not in manifest:
        return Ground(test, (), classes)
    planting = planting_of(manifest)
    stamped = []
    for number in range(planting.targets):
        goal, counts = planting.reached(test.labels, classes, number)
        images = stamp(load_trigger_of(folder).variant(number), test.images, planting.seed)
        stamped.append((images, goal, counts))
    return Ground(test, tuple(stamped), classes)


def planting_of(manifest: Mapping[str, Any]) -> Poisoning:
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


def _stamped_fit(cell: Cell, place: Place, clean: Clean) -> Part | None:
    """What a user would have caught: images with the trigger, and the labels they should have had."""
    folder = place.zoo / cell.specimen
    manifest = read_manifest(folder)
    if "trigger" not in manifest:
        return None
    planting = planting_of(manifest)
    _, counts = planting.reached(clean.fit.labels, len(manifest["classes"]))
    images = stamp(load_trigger_of(folder), clean.fit.images[counts], planting.seed)
    return Part(images, clean.fit.labels[counts])


@lru_cache(maxsize=4)
def _before(classifier: Classifier, specimen: str, count: int, place: Place) -> dict[str, Any]:
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


class _Count:
    """Images that went forward through a network or a copy of it, until :meth:`remove`."""

    def __init__(self, classifier: Classifier) -> None:
        self.images = 0
        self._handle = None
        if classifier.network is not None:

            def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
                # A closure, and no method: copies of the network must count here, not in a copy of this.
                box[0].images += len(inputs[0])

            box = [self]
            self._handle = classifier.network.register_forward_pre_hook(count)

    def remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()


def _forget_peak() -> None:
    """Begins to measure memory anew where the system allows it (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> dict[str, int | None]:
    """Largest resident size of this process since :func:`_forget_peak`, and of tensors on the GPU."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                host = int(line.split()[1]) * 1024
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host": host, "gpu": gpu}
