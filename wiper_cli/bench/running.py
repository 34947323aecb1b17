"""Runs one cell in this process.

A defence gets what the command would give it: the clean folder in three parts, and the suspects and transforms of
the scan, without the sample of stamps that the command looks for besides; never the trigger.
"""

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from formats import FormatError, Model, pack_tensors
from wiper_cli import __version__
from wiper_cli.audit.detection import detect
from wiper_cli.audit.environment import environment
from wiper_cli.audit.subject import device as device_of
from wiper_cli.bench import plans
from wiper_cli.bench.cells import SCANNED, Cell
from wiper_cli.bench.ground import NORM, Ground, ground_of, manifest_of, stamped_fit, subject_of, untreated
from wiper_cli.bench.identity import changes, identity
from wiper_cli.bench.store import Place, put
from wiper_cli.bench.units import scored
from wiper_cli.bench.watching import Watched, costs, peak, reset_peak
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress, silent
from wiper_cli.purifiers.contract import Task
from wiper_cli.rates import effectiveness
from wiper_cli.verdict import ExitCode, Problem


def run(cell: Cell, place: Place, progress: Progress = silent) -> dict[str, Any]:
    """Measures ``cell`` and writes its outcome. What a method or file refuses is an outcome too: ``refused``, with
    the sentence. Raises :class:`Problem` where the fault is not the cell's: no specimen, no test images, no room.
    """
    if place.threads:
        torch.set_num_threads(place.threads)
    folder = place.zoo / cell.specimen
    manifest = manifest_of(cell.specimen, place)
    if cell.file not in manifest["files"]:
        raise Problem(f"{folder} has no file {cell.file}.")
    ground = ground_of(cell.specimen, cell.test_images, place)
    reset_peak()
    outcome: dict[str, Any] = {
        "run": provenance(place.device),
        "specimen": {
            "sha256": manifest["files"][cell.file]["sha256"],
            "bn": "live" if cell.live else NORM[cell.file],
            "poisoning": (manifest.get("planting") or {}).get("in_words"),
            "twin": manifest.get("twin"),
        },
    }
    try:
        outcome |= identity(cell)
        outcome |= _KINDS[cell.kind](cell, place, ground, progress)
    except (Problem, FormatError) as refusal:
        outcome |= {"refused": str(refusal)}
    return place.store.write(cell, outcome | {"peak_bytes": peak()})


def provenance(device: str) -> dict[str, Any]:
    """What measured: the commit where the code is a checkout, versions, machine, threads. Without what changes from
    cell to cell, so that the cells of a run share it."""
    own = {"commit": _commit(), "tool": __version__, "device": device_of(device).type, **environment()}
    del own["load_average"]
    return own


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """Of the checkout that this file is part of, with "-dirty" where it differs from it."""
    git, here = ["git", "-C", str(Path(__file__).parent)], Path(__file__).name
    for words in (
        ["ls-files", "--error-unmatch", here],
        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            answer = subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
    return answer.stdout.strip()


def _purify(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    settings = cell.purifier()
    classifier, clean = _subject(cell, place)
    before = untreated(classifier, cell.specimen, cell.test_images, place)
    suspects, recovered = findings(cell, place, progress) if cell.uses_scan else ([], [])
    triggered = stamped_fit(cell, place, clean) if "triggered" in settings.needs else None
    watched = None
    if cell.watch:
        watched = Watched.of(classifier, clean.fit, lambda one: ground.measure(one, first=1000), settings)
        progress = watched.progress(progress)
    with costs(watched or classifier) as cost:
        task = Task(
            watched or classifier, clean, suspects, recovered, progress, cell.seed, triggered, cell.live
        )
        purified = settings.run(task)
    treated = classifier.with_edit(purified.edit)
    after = ground.measure(treated)
    return {
        "parts": {"fit": len(clean.fit), "select": len(clean.select), "report": len(clean.report)},
        "scan": {"suspects": suspects, "recovered": len(recovered)} if cell.uses_scan else None,
        "before": before,
        "after": after,
        "der": _der(before, after),
        "seconds": round(cost.seconds - (watched.seconds if watched else 0.0), 3),
        "cpu_seconds": None if watched else round(cost.cpu_seconds, 3),
        "images_seen": None if watched else cost.images,
        "edit": hashlib.sha256(pack_tensors(purified.edit.tensors)).hexdigest()[:12],
        "moved": movement(classifier.model, treated.model, purified.edit.tensors),
        "notes": purified.notes,
        "watched": watched.found if watched else None,
    }


def _der(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    if "asr" not in before:
        return None
    values = (side[key]["value"] for key in ("asr", "acc") for side in (before, after))
    return effectiveness(*values)


def movement(model: Model, edited: Model, names: Iterable[str]) -> dict[str, Any] | None:
    """How far the tensors of an edit moved: the largest |w - w0| of all, and of the head's weight the mean and the
    largest |w - w0| and how many of |w0| exceed 1. ``None`` where no tensor of the network moved."""
    if model.network is None or edited.network is None:
        return None
    old, new = model.named(model.network), edited.named(edited.network)
    moved = {name: _change(old[name], new[name]) for name in names if name in old}
    if not moved:
        return None
    found: dict[str, Any] = {"largest": max(float(change.max()) for change in moved.values())}
    if model.head and (head := moved.get(model.head.weight)) is not None:
        over_one = int((old[model.head.weight].detach().abs().double() > 1).sum())
        found["head"] = {"mean": float(head.mean()), "largest": float(head.max()), "over_one": over_one}
    return found


def _change(old: Tensor, new: Tensor) -> Tensor:
    return (new.detach().to(old.device) - old.detach()).abs().double()


def _scan(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    classifier, clean = _subject(cell, place)
    names = classifier.model.class_names or [str(k) for k in range(classifier.classes)]
    began = perf_counter()
    scanned = detect(classifier, clean, SCANNED, names, cell.seed, progress)
    judged, recovered = scanned.judged, scanned.recovered
    tensors = {
        f"{i}.{name}": value.contiguous()
        for i, one in enumerate(recovered)
        for name, value in one.parameters.items()
    }
    put(place.store.beside(cell, ".safetensors"), save(tensors))
    return {
        "seconds": round(perf_counter() - began, 3),
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
    scan = cell.scan()
    tensors = place.store.beside(scan, ".safetensors")
    sha256 = manifest_of(cell.specimen, place)["files"][cell.file]["sha256"]
    found = place.store.read(scan)
    if found is None or changes(scan, found, sha256) or ("refused" not in found and not tensors.is_file()):
        found = run(scan, place, progress)
    if "refused" in found:
        raise Problem(f"The scan was refused: {found['refused']}", ExitCode.NO_VERDICT)
    values = load_file(tensors)
    recovered = []
    for i, one in enumerate(found.get("recovered", [])):
        own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{i}.")}
        recovered.append(Recovered(one["family"], one["target"], own, one["facts"]))
    return found.get("suspects", []), recovered


def _salience(cell: Cell, place: Place, ground: Ground, progress: Progress) -> dict[str, Any]:
    found = scored(cell.name, *_subject(cell, place), ground)
    if not plans.drawn(cell, place.scale):  # values of units and maps weigh much
        found = {key: value for key, value in found.items() if key not in ("clean", "triggered", "attention")}
    return found


def _subject(cell: Cell, place: Place) -> tuple[Classifier, Clean]:
    return subject_of(cell.specimen, cell.file, cell.images, cell.labels, cell.seed, place)


_KINDS: Mapping[str, Callable[[Cell, Place, Ground, Progress], dict[str, Any]]] = {
    "purify": _purify,
    "scan": _scan,
    "salience": _salience,
}
