"""What ``wiper purify`` makes of networks whose truth is known: accepted or not, and whether the backdoor is gone.

    python -m benchmarks.acceptance ZOO --root DATA --work DIR [--models DIR] [--only NAME,...] [--judge]

ZOO holds specimens (``wiper zoo build``), DATA their data sets (``DATA/NAME/{train,test}``); with ``--models`` also
networks that stand there, or are planted first, as of :mod:`benchmarks.shape_probe`. Each folded ONNX file is purified
as the command does it, with its defaults, on the first half of every class of the test images, by file name; true
trigger and accuracy are measured on the other half, before and after. What was refused is never written, but its state
is measured, too: the one of the round that stands, or the file as it was where the scan found nothing. ``seconds``: of
processor time, one thread.

What came of a specimen stays in WORK, with the weights that stand or would have been written, of which
:mod:`benchmarks.probe_power` asks, and is not run again, so that a run that was interrupted goes on; all that stands
there becomes the result, which :mod:`benchmarks.acceptance_pages` renders. Kinds that are held out need ``--judge``:
without it they are refused where they are named, and left out otherwise. A line that gets ``superseded``, which change
made it a thing of the past, stays in the page and counts no longer.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.common import RESULTS, write_result
from benchmarks.shape_probe import plantable, planted
from formats import Edit, Model, apply_edit, open_model, read_source
from formats.tensors import from_bytes
from triggers.family import Trigger
from triggers.store import load as load_trigger
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.audit.stories.purify import NOTHING_TO_GO, purify
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS
from wiper_cli.rates import count
from wiper_cli.verdict import Problem
from wiper_cli.zoo import datasets, specimen
from wiper_cli.zoo.holdouts import is_held_out, kinds_of, refusal
from wiper_cli.zoo.recipe import CLEAN, FILE_WORD, Recipe
from wiper_cli.zoo.training import predict

NAME = "acceptance"
#: What stands in place of a round where nothing was tried.
UNTRIED: dict[str, Any] = {
    "kept": True, "accepted": False, "unlearned": 0, "measured": 0, "fired": [], "probes_fired": [],
    "outcome_fired": None,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network to be purified. ``trigger``: the true one, ``None`` where nothing was planted. ``twin``: file of the
    clean twin. ``mean`` to ``arch``: where the file does not say so itself."""

    name: str
    model: Path
    recipe: Recipe
    trigger: Trigger | None
    twin: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arch: str | None = None

    @property
    def kind(self) -> str:
        """What was planted, in words."""
        given = self.recipe.poisoning
        return (
            CLEAN if self.trigger is None else kinds_of(self.recipe.attack, self.recipe.parameters, given)[-1]
        )

    def model_opened(self) -> Model:
        """Its file."""
        return open_model(read_source(self.model), self.arch)

    def opened(self, file: Path, edit: Edit | None = None) -> nn.Module:
        """The network in ``file``, after ``edit``, on images in 0..1."""
        model = open_model(read_source(file), self.arch)
        network = Classifier(model if edit is None else apply_edit(model, edit), self.mean, self.std).network
        assert network is not None
        return network


def cases(zoo: Path, models: Path | None) -> Iterator[Case]:
    """Specimens of ``zoo`` and networks that are, or are to be, planted in ``models``."""
    for place in sorted(path.parent for path in zoo.glob("*/manifest.json")):
        manifest = specimen.read_manifest(place)
        told = dict(manifest["recipe"])
        recipe = Recipe(poisoning=told.pop(FILE_WORD), **told)
        stored = place / "trigger.safetensors"
        trigger = load_trigger(stored)[0] if stored.exists() else None
        twin = zoo / recipe.twin.id / "model.onnx"
        yield Case(
            place.name, place / "model.onnx", recipe, trigger, twin, tuple(manifest["mean"]), tuple(manifest["std"])
        )  # fmt: skip
    for kind, recipe in plantable().items() if models else ():
        assert models is not None
        twin = zoo / recipe.twin.id
        manifest = specimen.read_manifest(twin)
        yield Case(
            f"{kind}-planted", models / f"{kind}.safetensors", recipe, recipe.trigger(), twin / "model.safetensors",
            tuple(manifest["mean"]), tuple(manifest["std"]), "research/resnet10",
        )  # fmt: skip


def halved(data: str, root: Path, work: Path) -> Path:
    """The test images in two parts, laid out as a data set: ``train`` for purify, ``test`` for what is measured."""
    place = work / "images" / data
    for folder in sorted((root / data / "test").iterdir()) if not place.exists() else ():
        files = sorted(folder.iterdir())
        for number, file in enumerate(files):
            own = place / ("train" if number < len(files) // 2 else "test") / folder.name
            own.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, own)
    return place


def rates(network: nn.Module, case: Case, test: datasets.Images, classes: int) -> dict[str, Any]:
    """On the images held apart, without the true trigger and with it."""
    found = {"acc": count(predict(network, test.images), test.labels).as_dict()}
    if case.trigger is not None:
        found |= specimen.measure(network, test, case.trigger, case.recipe.poisoned(), classes)
    return {name: {"value": round(one["value"], 4), "n": one["n"]} for name, one in found.items()}


def weights_of(work: Path, case: Case) -> Path:
    """Where the outcome of ``case`` is kept."""
    return work / f"{case.name}.safetensors"


def keep(edit: Edit, place: Path) -> None:
    """The new values by name, as they are in the file."""
    save_file({name: from_bytes(new.data, new.dtype, new.shape) for name, new in edit.tensors.items()}, place)


def shortened(line: dict[str, Any]) -> dict[str, Any]:
    """What the pages need of a line."""

    def told(piece: dict[str, Any]) -> str:
        where = "" if piece["target"] is None else f" for class {piece['target']}"
        return f"{piece['name']}{where} ({piece['statistic']:.2f} against {piece['threshold']:.2f})"

    rounds = [
        {name: one[name] for name in ("unlearned", "measured", "accepted", "reason", "kept")}
        | {name: [told(piece) for piece in one[name]] for name in ("fired", "probes_fired")}
        | {"outcome_fired": (left := one["outcome_fired"]) and [told(piece) for piece in left]}
        for one in line["rounds"]
    ]
    return line | {"rounds": rounds}


def requested(case: Case, clean: Path) -> PurifyRequest:
    """A purification with its defaults."""
    described = {"mean": case.mean, "std": case.std} if case.arch else {}
    return PurifyRequest(model=case.model, clean=clean, arch=case.arch, **described)


def examined(case: Case, root: Path, work: Path) -> dict[str, Any]:
    """One line of the result."""
    place = halved(case.recipe.data, root, work)
    began = time.process_time()
    try:
        found = purify(requested(case, place / "train"))
        edit, accepted, rounds = found.edit, found.accepted, found.purification["rounds"]
    except Problem as problem:  # the scan found nothing, and nothing was tried
        if str(problem) != NOTHING_TO_GO:
            raise
        edit, accepted, rounds = None, False, [{**UNTRIED, "reason": str(problem)}]
    seconds = time.process_time() - began
    if edit is not None:
        keep(edit, weights_of(work, case))
    test, classes = datasets.load_test(str(place))
    clean = case.trigger is None
    return {
        "specimen": case.name,
        "kind": case.kind,
        "data": case.recipe.data,
        "arch": case.recipe.arch,
        "rate": None if clean else case.recipe.poisoned().rate,
        "target": None
        if clean or case.recipe.poisoned().labelling == "all-to-all"
        else case.recipe.poisoned().target,
        "held_out": is_held_out(case.recipe),
        "before": rates(case.opened(case.model), case, test, len(classes)),
        "after": rates(case.opened(case.model, edit), case, test, len(classes)),
        "twin": rates(case.opened(case.twin), case, test, len(classes)) if case.twin.exists() else None,
        "accepted": accepted,
        "detectors": list(DETECTORS),
        **({"untried": True} if edit is None else {}),
        "rounds": rounds,
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    found = list(cases(options.zoo, options.models))
    for word in options.only.split(","):
        chosen = [case for case in found if word in case.name]
        judges = [case.name for case in chosen if is_held_out(case.recipe)]
        if word and judges and not options.judge:
            raise SystemExit(str(refusal(judges)))
        for case in chosen:
            place = options.work / f"{case.name}.json"
            if not place.exists() and (options.judge or case.name not in judges):
                if case.arch and not case.model.exists():
                    data = datasets.load(case.recipe.data, options.root)
                    planted(case.recipe, data, options.zoo, case.model)
                line = examined(case, options.root, options.work)
                place.write_text(json.dumps(line, indent=1) + "\n")
                print(json.dumps(line), flush=True)
    lines = [shortened(json.loads(place.read_text())) for place in sorted(options.work.glob("*.json"))]
    write_result(NAME, {"lines": lines}, options.results)


if __name__ == "__main__":
    main()
