"""``wiper zoo train`` and ``wiper zoo build``: models with and without backdoors, for measuring what is claimed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wiper_cli.commands.shared.help import Group
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.scratch import write_whole
from wiper_cli.verdict import ExitCode, Problem

F = TypeVar("F", bound=Callable[..., Any])


def _shared(command: F) -> F:
    for one in (
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]"),
        click.option("--judge", is_flag=True, help="Also make kinds that are held out for judging."),
        click.option("--download", is_flag=True, help="Let torchvision fetch a named data set."),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Where data sets are looked for by name.",
        ),
    ):
        command = one(command)
    return command


@click.group(
    cls=Group,
    examples=(
        "wiper zoo train --data cifar10 --arch resnet18-w16 --attack blend -o zoo/",
        "wiper zoo build shapes -o zoo/ --list",
    ),
)
def zoo() -> None:
    """Train models with and without backdoors, as ground truth.

    Attacks are the families of 'wiper triggers'; every attack comes with a clean twin of the same seed.
    """


@zoo.command()
@click.option(
    "--data", required=True, metavar="DIR|NAME", help="Folder with train/ and test/, or a data set's name."
)
@click.option("--arch", required=True, metavar="NAME", help="Architecture, such as resnet18-w16.")
@click.option(
    "--attack", default="clean", show_default=True, metavar="NAME", help="A trigger family, or 'clean'."
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The zoo's folder."
)
@click.option("--rate", type=click.FloatRange(0, 1), help="Poisoned share of the training images.")
@click.option("--target", type=click.IntRange(min=0), help="The class the trigger aims at, by number.")
@click.option("--labelling", metavar="NAME", help="all-to-one, all-to-all, multi-target or source-specific.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training images.")
@click.option("--size", type=click.IntRange(min=8), help="Side to which images are scaled.")
@click.option(
    "-p", "--parameter", "settings", multiple=True, metavar="KEY=VALUE",
    help="A parameter of the family, poisoning.KEY (also planting.KEY) or schedule.KEY; VALUE as in TOML.",
)  # fmt: skip
@_shared
@click.pass_context
def train(
    context: click.Context,
    /,
    data: str,
    arch: str,
    attack: str,
    out: Path,
    seed: int,
    epochs: int | None,
    size: int | None,
    settings: tuple[str, ...],
    root: Path | None,
    download: bool,
    device: str,
    judge: bool,
    quiet: bool,
    **poisoning: Any,
) -> None:
    """Train one model, and its clean twin where that does not stand yet."""
    from wiper_cli.zoo.build import Place, build
    from wiper_cli.zoo.recipe import CLEAN, Recipe

    given: dict[str, dict[str, Any]] = {
        "parameters": {},
        "poisoning": {key: value for key, value in poisoning.items() if value is not None},
        "schedule": {"epochs": epochs} if epochs else {},
    }
    for setting in settings:
        group, key, value = _setting(setting)
        given[group][key] = value
    recipe = Recipe(
        data, arch, attack, given["parameters"], given["poisoning"], given["schedule"], seed, size
    )
    if attack == CLEAN and (recipe.poisoning or recipe.parameters):
        raise Problem("A clean model takes no rate, target or parameters; name an --attack.")
    recipe.check()
    recipes = [recipe] if attack == CLEAN else [recipe.twin, recipe]
    with Display(quiet) as display:
        place = Place(out, root, download, device, judge)
        build(recipes, place, progress=display.progress, say=display.say, strict=True)
    click.echo(str(out / recipe.id))


@zoo.command(name="build")
@click.argument("suite", metavar="SUITE")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The zoo's folder."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Models trained at once."
)
@click.option("--only", metavar="TEXT", help="Only specimens whose name contains this.")
@click.option(
    "--list", "listing", is_flag=True, help="Name the specimens and whether they stand; build nothing."
)
@_shared
@click.pass_context
def build_(
    context: click.Context,
    /,
    suite: str,
    out: Path,
    jobs: int,
    only: str | None,
    listing: bool,
    root: Path | None,
    download: bool,
    device: str,
    judge: bool,
    quiet: bool,
) -> None:
    """Build a suite, or go on with it: what stands is skipped.

    SUITE is a TOML file, or one of the suites that come along: tiny, shapes, small, paper, field, wide, detect.
    """
    from wiper_cli.zoo import suites
    from wiper_cli.zoo.build import Place, build, is_built, table

    found = suites.read(suite)
    recipes = [recipe for recipe in found.recipes if not only or only in recipe.id]
    if not recipes:
        raise Problem(f"No specimen of the suite {found.name} is called like {only!r}.")
    if only:  # an attack needs its twin
        recipes = [*{r.twin.id: r.twin for r in recipes}.values(), *(r for r in recipes if r != r.twin)]
    if listing:
        for recipe in recipes:
            click.echo(f"{'stands' if is_built(recipe, out) else 'missing':<8} {recipe.id}")
        return
    with Display(quiet) as display:
        place = Place(out, root, download, device, judge)
        failures = build(recipes, place, jobs, display.progress, display.say)
    rows = table(found.recipes, out)
    write_whole(out / f"{found.name}.json", (json.dumps(rows, indent=1) + "\n").encode())
    click.echo(f"{len(rows['specimens'])} of {rows['of']} specimens of {found.name} stand in {out}")
    if failures:
        context.exit(ExitCode.NO_VERDICT)


def _setting(text: str) -> tuple[str, str, Any]:
    """``KEY=VALUE`` → (group, key, value)."""
    import tomllib

    from wiper_cli.zoo.recipe import FILE_WORD

    key, equals, value = text.partition("=")
    if not equals:
        raise Problem(f"{text!r} is not KEY=VALUE.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    group, dot, field = key.partition(".")
    if dot and group in ("poisoning", FILE_WORD, "schedule"):
        return "poisoning" if group == FILE_WORD else group, field, parsed
    return "parameters", key, parsed
