"""Building a suite: one specimen after the other, or several at once; what stands is skipped.

OUT/clean/DATA/CLASS/*   the images no network saw        OUT/ID/   one specimen        OUT/SUITE.json   the table
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wiper_cli.jobs.local import fan_out, share_of_cores
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import Problem
from wiper_cli.zoo.holdouts import is_held_out, refusal
from wiper_cli.zoo.recipe import CLEAN, Recipe


@dataclass(frozen=True)
class Place:
    """Where things are: ``out`` the zoo's folder, ``root`` where data sets are looked for, ``device`` by name.
    ``judge``: kinds that are held out are made, too."""

    out: Path
    root: Path | None = None
    download: bool = False
    device: str = "auto"
    judge: bool = False


def is_built(recipe: Recipe, out: Path) -> bool:
    """Whether this very recipe has been made; raises :class:`Problem` when another one has its name."""
    from wiper_cli.zoo.specimen import MANIFEST, read_manifest

    folder = out / recipe.id
    if not (folder / MANIFEST).exists():
        return False
    found, wanted = read_manifest(folder)["recipe"], json.loads(json.dumps(recipe.as_dict()))
    if found != wanted:
        differing = ", ".join(key for key in wanted if found.get(key) != wanted[key])
        raise Problem(
            f"{folder} was made from another recipe ({differing} differ); move it away or build elsewhere."
        )
    return True


def check(recipe: Recipe, place: Place) -> None:
    """Raises the :class:`Problem` that ``recipe`` would meet with its data, as far as that needs no training."""
    from wiper_cli.zoo import datasets, specimen

    specimen.check(recipe, datasets.load(recipe.data, place.root, recipe.size, place.download))


def make_one(
    recipe: Recipe, place: Place, threads: int | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Makes one specimen in ``place.out``, in this process; its twin must stand already."""
    if is_held_out(recipe) and not place.judge:
        raise refusal([recipe.id])
    import torch

    from wiper_cli.audit.subject import device
    from wiper_cli.zoo import datasets, specimen

    if threads:
        torch.set_num_threads(threads)
    data = datasets.load(recipe.data, place.root, recipe.size, place.download)
    shown = data.name if recipe.size is None else f"{data.name}-{recipe.size}"
    twin = None if recipe.attack == CLEAN else place.out / recipe.twin.id
    made = specimen.make(recipe, data, place.out / recipe.id, twin, device(place.device), progress)
    (place.out / "clean").mkdir(exist_ok=True)
    specimen.write_clean(data, place.out / "clean" / shown)
    return made


def build(
    recipes: Sequence[Recipe],
    place: Place,
    jobs: int = 1,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda sentence: None,
    strict: bool = False,
) -> list[Problem]:
    """Makes every recipe that does not stand yet, twins before their attacks, ``jobs`` at a time.

    A recipe that cannot be made does not stop the others, and what went wrong is returned; ``strict`` raises
    the first :class:`Problem`, what can be known before anything is trained included. Kinds that are held out are
    left out, and said to be, unless ``place.judge``; raises :class:`Problem` where nothing else was asked for.
    """
    held = [] if place.judge else [recipe for recipe in recipes if is_held_out(recipe)]
    if held:
        recipes = [recipe for recipe in recipes if recipe not in held]
        if all(recipe.attack == CLEAN for recipe in recipes):
            raise refusal(recipe.id for recipe in held)
        say(f"{len(held)} specimens are held out for judging and left out; --judge makes them.")
    place.out.mkdir(parents=True, exist_ok=True)
    todo = [recipe for recipe in recipes if not is_built(recipe, place.out)]
    if strict:
        for recipe in todo:
            check(recipe, place)
    done, failures = len(recipes) - len(todo), []
    if done:
        say(f"{done} of {len(recipes)} stand already.")
    for outcome in _made(todo, place, jobs, progress):
        done += 1
        if isinstance(outcome, Problem):
            if strict:
                raise outcome
            failures.append(outcome)
            say(f"[{done}/{len(recipes)}] {outcome}")
        else:
            say(f"[{done}/{len(recipes)}] {summary(outcome)}")
        progress("build", done, len(recipes))
    return failures


def summary(manifest: dict[str, Any]) -> str:
    """One line of figures for people."""
    parts = [f"{name.upper()} {100 * value['value']:.1f}" for name, value in manifest["figures"].items()]
    return f"{manifest['id']}: {', '.join(parts)} ({manifest['seconds']:.0f} s)"


def _made(
    todo: Sequence[Recipe], place: Place, jobs: int, progress: Progress
) -> Iterator[dict[str, Any] | Problem]:
    threads = None if jobs == 1 else share_of_cores(jobs)
    shown = progress if jobs == 1 else silent  # a display does not travel to other processes
    work = partial(make_one, place=place, threads=threads, progress=shown)
    for wave in ([r for r in todo if r.attack == CLEAN], [r for r in todo if r.attack != CLEAN]):
        for _, outcome in fan_out(wave, work, jobs):
            yield outcome


def table(recipes: Sequence[Recipe], out: Path) -> dict[str, Any]:
    """What the manifests of the specimens that stand say, without histories and files."""
    from wiper_cli.zoo.specimen import MANIFEST, read_manifest

    left_out = ("history", "files", "classes", "format")
    rows = [
        {key: value for key, value in read_manifest(out / recipe.id).items() if key not in left_out}
        for recipe in recipes
        if (out / recipe.id / MANIFEST).exists()
    ]
    return {"format": "wiper-zoo/1", "made": time.strftime("%Y-%m-%d"), "of": len(recipes), "specimens": rows}
