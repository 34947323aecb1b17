"""``wiper bench``: the paper's tables and figures again, from a zoo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.verdict import ExitCode, Problem

if TYPE_CHECKING:
    from wiper_cli.bench.cells import Cell
    from wiper_cli.bench.store import Place


@click.command(
    cls=Command,
    examples=("wiper bench table2 -o results/ --zoo zoo/ --list",),
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Folder of results: cells-SCALE.jsonl, and a page, CSV and figure for each NAME.",
)  # fmt: skip
@click.option(
    "--zoo", type=click.Path(path_type=Path), metavar="DIR", help="Folder made by 'wiper zoo build'."
)
@click.option("--scale", default="tiny", show_default=True, metavar="tiny|small|paper|field")
@click.option("--seeds", default="1", show_default=True, metavar="N[,N...]", help="Seeds of the methods.")
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Cells run at once; by default 1, with --ray what finds room."
)
@click.option(
    "--ray", metavar="ADDRESS",
    help="Run the cells on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT. ZOO, RESULTS and data must stand "
    "at the same paths on all its machines.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
@click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR", help="Where data sets are looked for by name."
)
@click.option(
    "--test-images", type=click.IntRange(min=20), help="Measure on so many; by default the scale's."
)
@click.option("--only", metavar="TEXT", help="Run only cells whose name contains this.")
@click.option("--list", "listing", is_flag=True, help="Name the cells and whether they stand; run nothing.")
@click.option("--render-only", is_flag=True, help="Write the pages from the cells that stand; run nothing.")
@click.option("--judge", is_flag=True, help="Also run cells of specimens that are held out for judging.")
@click.option("--retry", is_flag=True, help="Run cells again that were refused.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def bench(
    context: click.Context,
    /,
    names: tuple[str, ...],
    out: Path,
    zoo: Path | None,
    scale: str,
    seeds: str,
    jobs: int | None,
    ray: str | None,
    device: str,
    root: Path | None,
    test_images: int | None,
    only: str | None,
    listing: bool,
    render_only: bool,
    judge: bool,
    retry: bool,
    quiet: bool,
) -> None:
    """Run the cells that tables and figures lack, and render them.

    NAME is table1 ... table10 or figure1 ... figure10 (as the paper numbers them), appendix3, appendix4, field,
    ablations, cost, or 'all'. A cell that stands is never run again; stop and go on as you like.
    """
    from wiper_cli.bench import matrix, plans
    from wiper_cli.bench.pages import files
    from wiper_cli.bench.standing import Standing
    from wiper_cli.bench.store import Place, Store, put
    from wiper_cli.bench.work import status
    from wiper_cli.jobs.local import share_of_cores

    matrix.scale_of(scale)
    chosen = (plans.find(name) for name in (plans.TABLES if "all" in names else names))
    tables = {table.name: table for table in chosen}
    drawn = _seeds(seeds)
    every = (cell for table in tables.values() for cell in matrix.cells_of(table, scale, drawn, test_images))
    cells = list(dict.fromkeys(cell for cell in every if not only or only in cell.id))
    if only and not cells:
        raise Problem(f"No cell of {', '.join(tables)} at the scale {scale} is called like {only!r}.")
    store = Store(out, scale)
    with Display(quiet) as display:
        if sentence := store.damaged():
            display.say(sentence)
        if listing:
            for cell in cells:
                click.echo(f"{status(cell, store, zoo):<8} {cell.id}")
            return
        failures = []
        if not render_only:
            if zoo is None or not zoo.is_dir():
                raise Problem("A zoo is needed: --zoo DIR, as 'wiper zoo build' makes it; or --render-only.")
            place = Place(zoo, out, root, device, share_of_cores(jobs or 1), scale, judge)
            failures = _run(cells, place, jobs, ray, retry, display)
        for table in tables.values():
            for name, data in files(table, Standing.read(table, store, drawn, test_images, zoo)).items():
                put(out / name, data)
            click.echo(out / f"{table.name}-{scale}.md")
    if failures:
        context.exit(ExitCode.NO_VERDICT)


def _run(
    cells: list[Cell], place: Place, jobs: int | None, ray: str | None, retry: bool, display: Display
) -> list[Problem]:
    from wiper_cli.bench.work import complete
    from wiper_cli.jobs.ray import connect

    if ray is None:
        return complete(cells, place, jobs or 1, display.progress, display.say, retry)
    with connect(ray, jobs, place.device) as fleet:
        root = place.root and place.root.absolute()
        there = replace(
            place, zoo=place.zoo.absolute(), results=place.results.absolute(), root=root, threads=fleet.cpus
        )
        return complete(cells, there, 1, display.progress, display.say, retry, fleet)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise Problem(f"--seeds takes whole numbers, such as 1,2,3, not {text!r}.") from None
