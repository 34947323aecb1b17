"""One specimen: poisoned, trained, measured, written in every format with its trigger and its manifest.

The clean split is chosen once per data set, before anything else: no network of the zoo ever sees it. All figures
are on the whole test part, with triggered images rounded to 256 levels. The clean twin has the same data,
architecture, schedule and seed: its recovery on triggered images is the ceiling of RA, and the share of them
that it sends to the target is the floor of ASR.
"""

import copy
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from triggers.dataset import poisoned
from triggers.errors import TriggerError
from triggers.family import CoTraining, Trigger, parameters, quantise
from triggers.poisoning import Chosen, Poisoning
from triggers.store import dump
from wiper_cli.audit.environment import environment
from wiper_cli.progress import Progress, silent
from wiper_cli.rates import AttackRates, count
from wiper_cli.scratch import HIDDEN, held
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.zoo import architectures, branch
from wiper_cli.zoo import recipe as recipes
from wiper_cli.zoo.datasets import Dataset, Images
from wiper_cli.zoo.export import FILES, export
from wiper_cli.zoo.recipe import ARCHITECTURAL, CLEAN, FILE_WORD, Recipe
from wiper_cli.zoo.training import Epoch, Normalised, Poison, low_precision, predict, train, victim_of

FORMAT = "wiper-specimen/1"
MANIFEST = "manifest.json"
#: Triggers are fitted to at most so many training images.
FIT_IMAGES = 2000


def split(data: Dataset) -> tuple[Tensor, Tensor]:
    """Places of the training images that are set aside (sorted), and of all others."""
    count = round(recipes.HELD_OUT * len(data.train))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(recipes.HELD_OUT_SEED))
    return order[:count].sort().values, order[count:].sort().values


def write_clean(data: Dataset, folder: Path) -> None:
    """The images set aside as ``folder/CLASS/NUMBER.png``, whole or not at all; what stands is kept, also when
    another process was faster."""
    if folder.is_dir():
        return
    with held(folder.parent, HIDDEN) as partial:
        held_out, _ = split(data)
        for name in data.classes:
            (partial / name).mkdir(parents=True)
        for place in held_out.tolist():
            pixels = data.train.images[place].permute(1, 2, 0).squeeze(-1).contiguous().numpy()
            name = data.classes[int(data.train.labels[place])]
            Image.fromarray(pixels).save(partial / name / f"{place:06d}.png")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def make(
    recipe: Recipe,
    data: Dataset,
    out: Path,
    twin: Path | None,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains ``recipe`` and writes the folder ``out``, which must not exist; ``twin``: folder of the clean
    twin, needed by every attack. Returns the manifest. Nothing is left behind when it fails.

    Raises :class:`Problem` when the recipe does not fit the data, training diverges, or the disk is full.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with held(out.parent, HIDDEN, out.name) as partial:
            manifest = _make(recipe, data, partial, twin, device, progress)
            partial.rename(out)
    except TriggerError as error:
        raise Problem(f"{recipe.id} cannot be made: {error}") from error
    except OSError as error:
        raise Problem(f"{out} cannot be written: {error.strerror or error}.") from error
    return manifest


def check(recipe: Recipe, data: Dataset) -> Chosen | None:
    """Raises :class:`Problem` when ``recipe`` does not fit ``data``; returns which images it would poison."""
    kind = architectures.find(recipe.arch)
    channels, height, width = data.shape
    if min(height, width) < kind.smallest or kind.channels not in (None, channels):
        takes = f"{kind.channels or channels} channels and at least {kind.smallest} pixels a side"
        raise Problem(
            f"{recipe.arch} takes images of {takes}; these have {channels} and {height}x{width}; see --size."
        )
    recipe.check()
    if recipe.attack == ARCHITECTURAL:
        branch.plan(recipe, data)
    if recipe.attack in (CLEAN, ARCHITECTURAL):
        return None
    try:
        trigger = recipe.trigger()
        if trigger.needs == "nothing":
            trigger.stamp(data.test.images[:1].float() / 255)
        return recipe.poisoned().choose(data.train[split(data)[1]].labels, len(data.classes))
    except TriggerError as error:
        raise Problem(f"{recipe.id} cannot be made: {error}") from error


def _make(
    recipe: Recipe, data: Dataset, out: Path, twin: Path | None, device: torch.device, progress: Progress
) -> dict[str, Any]:
    began = time.perf_counter()
    chosen = check(recipe, data)
    kind = architectures.find(recipe.arch)
    channels, height, width = data.shape
    generator = torch.Generator().manual_seed(recipe.seed)
    bare = kind.build(len(data.classes), channels)
    architectures.initialise(bare, generator)
    network = Normalised(bare, data.mean, data.std).to(device)
    _, rest = split(data)
    seen = data.train[rest]
    facts: dict[str, Any] = {}
    history: list[Epoch] = []
    trigger: Trigger | None = None
    poisoning: Poisoning | None = None
    theta0 = _twin(network, recipe, twin, device)
    if recipe.attack == ARCHITECTURAL:
        assert theta0 is not None
        network = theta0
        trigger, poisoning, facts = branch.plan(recipe, data)
        schedule = None
    elif recipe.attack == CLEAN:
        schedule = recipe.trained()
        none = torch.zeros(len(seen), dtype=torch.bool, device=device)
        images, labels = seen.images.to(device), seen.labels.to(device)
        history = train(network, Poison(images, labels, none, none), schedule, recipe.seed, progress)
    else:
        assert theta0 is not None
        assert chosen is not None
        poisoning = recipe.poisoned()
        schedule = recipe.trained()
        if poisoning.start == "clean":
            network, schedule = _copy(theta0), schedule.fine()
        started = time.perf_counter()
        own = _fit(recipe, theta0, kind.head, seen, poisoning.target, device, progress)
        facts["fit_seconds"] = round(time.perf_counter() - started, 1)
        victim = victim_of(network, kind.head)
        images = seen.images.to(device)
        hooks = own.cotrain(victim, images, seen.labels.to(device), poisoning, generator)
        poison = _poison(images, chosen, own, poisoning, hooks, device)
        history = train(network, poison, schedule, recipe.seed, progress)
        trigger = (hooks.finish() if hooks else None) or own
        facts["poisoned"], facts["covered"] = int(chosen.poisoned.sum()), int(chosen.covered.sum())
    network.eval()
    progress("measure", 0, 1)
    test = Images(data.test.images.to(device), data.test.labels.to(device))
    figures: dict[str, Any] = {"acc": count(predict(network, test.images), test.labels).as_dict()}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "id": recipe.id,
        "recipe": recipe.as_dict(),
        "schedule": asdict(schedule) if schedule else None,
        "classes": list(data.classes),
        "mean": data.mean,
        "std": data.std,
        "images": {"shape": list(data.train.images.shape[1:]), "train": len(rest), "test": len(test)}
        | {"clean": len(data.train) - len(rest)},
        "parameters": sum(p.numel() for p in bare.parameters()),
    }
    config = {
        "mean": data.mean,
        "std": data.std,
        "input_size": manifest["images"]["shape"],
        "label_names": list(data.classes),
    }
    export(network.network, (channels, height, width), out, config)
    if trigger is not None and poisoning is not None:
        assert theta0 is not None
        manifest["trigger"] = {
            "family": trigger.name,
            "title": trigger.title,
            "source": trigger.source,
            "atlas": list(trigger.atlas),
            "parameters": parameters(trigger),
        }
        manifest[FILE_WORD] = {**asdict(poisoning), "in_words": str(poisoning)}
        if recipe.attack == ARCHITECTURAL:
            figures |= branch.write(recipe, data, out, test, poisoning)
        else:
            figures |= measure(network, test, trigger, poisoning, len(data.classes))
        ceiling = measure(theta0, test, trigger, poisoning, len(data.classes))
        manifest["twin"] = {
            "id": recipe.twin.id,
            "acc": count(predict(theta0, test.images), test.labels).as_dict(),
            "ra": ceiling["ra"],
            "asr": ceiling["asr"],
        }
        marks = {
            "target": str(poisoning.target), "labelling": poisoning.labelling, "specimen": recipe.id,
        }  # fmt: skip
        (out / "trigger.safetensors").write_bytes(dump(trigger, marks))
    manifest |= {
        "figures": figures,
        **facts,
        "history": [asdict(epoch) for epoch in history],
        "seconds": round(time.perf_counter() - began, 1),
        "device": device.type,
        "precision": "bfloat16" if low_precision(device) else "float32",
        "files": {path.name: _file(path) for path in sorted(out.iterdir()) if path.name in FILES},
        "environment": environment(),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    progress("measure", 1, 1)
    return manifest


def _twin(network: Normalised, recipe: Recipe, twin: Path | None, device: torch.device) -> Normalised | None:
    """The clean twin with its weights loaded, in eval mode and frozen."""
    if recipe.attack == CLEAN:
        return None
    if twin is None:
        raise Problem(f"{recipe.id} needs its clean twin {recipe.twin.id}.")
    found = _copy(network)
    try:
        found.network.load_state_dict(load_file(twin / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        raise Problem(f"{twin} is no clean twin of {recipe.id}: its weights do not fit.") from error
    found.to(device).eval()
    for parameter in found.parameters():
        parameter.requires_grad_(False)
    return found


def _copy(network: Normalised) -> Normalised:
    made = copy.deepcopy(network)
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    return made


def _fit(
    recipe: Recipe,
    theta0: Normalised,
    head: str,
    seen: Images,
    target: int,
    device: torch.device,
    progress: Progress,
) -> Trigger:
    trigger = recipe.trigger()
    if trigger.trained_along or {trigger.needs, trigger.needs_to_poison} == {"nothing"}:
        return trigger
    generator = torch.Generator().manual_seed(recipe.seed)
    some = torch.randperm(len(seen), generator=generator)[:FIT_IMAGES]
    images, labels = seen.images[some].to(device), seen.labels[some].to(device)
    return trigger.fit(victim_of(theta0, head), images, labels, target, generator, progress)


def _poison(
    images: Tensor,
    chosen: Chosen,
    trigger: Trigger,
    poisoning: Poisoning,
    hooks: CoTraining | None,
    device: torch.device,
) -> Poison:
    online = hooks is not None and hooks.online
    current = trigger

    def restamp(epoch: int, new: Trigger | None) -> Tensor | None:
        nonlocal current
        if online or (epoch and new is None and not poisoning.fresh):
            return None
        current = new or current
        return poisoned(images, current, poisoning, chosen, epoch)

    masks = chosen.poisoned.to(device), chosen.covered.to(device)
    return Poison(images, chosen.labels.to(device), *masks, restamp, hooks)


@torch.no_grad()
def measure(
    network: nn.Module, test: Images, trigger: Trigger, poisoning: Poisoning, classes: int
) -> dict[str, Any]:
    """ASR, RA and base rate (untriggered images) as ``{value, n, interval}``; over several triggers together."""
    plain = predict(network, test.images)
    total = AttackRates()
    for number in range(poisoning.targets):
        own = trigger.variant(number)
        goal, counts = poisoning.reached(test.labels, classes, number)
        generator = torch.Generator().manual_seed(poisoning.seed)
        answers = torch.cat(
            [
                predict(network, quantise(own.stamp(part.float() / 255, generator)))
                for part in test.images.split(500)
            ]
        )
        total += AttackRates.of(answers, plain, test.labels, goal, counts)
    return total.as_dict()


def _file(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a finished specimen; raises :class:`Problem` when there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if found["format"] != FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(f"{folder} holds no specimen of the zoo.", ExitCode.USAGE) from error
    return found
