"""``wiper scan MODEL… --clean DIR``: look for a backdoor that nobody described."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wiper_cli.commands.fleet.batch import Item, in_order, items
from wiper_cli.commands.fleet.manifest import lines
from wiper_cli.commands.fleet.output_folder import FleetFolder
from wiper_cli.commands.fleet.scanning import Scan, planned
from wiper_cli.commands.shared.cache import seal
from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.ignore import Ignores, append, text_of
from wiper_cli.commands.shared.options import (
    EFFORT,
    JOBS,
    MODELS,
    Detectors,
    Duration,
    Settings,
    option,
    origin,
    shared_options,
)  # fmt: skip
from wiper_cli.commands.shared.remote import Place
from wiper_cli.commands.shared.run import (
    Run,
    check_requested,
    finish,
    read_reports,
    require_clean,
    require_folder,
)
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.jobs.ray import Fleet, connect
from wiper_cli.reports.changes import changes
from wiper_cli.verdict import ExitCode

#: How often a scan begins again whose machine was lost.
RETRIES = 3


@click.command(
    cls=Command,
    own="Search",
    examples=(
        "wiper scan model.onnx --clean images/ -f text -f html=report.html",
        "wiper scan models/ --clean images/ --jobs 4 --output-dir reports/",
        "wiper scan models/*.onnx --clean images/ --effort quick -f sarif=wiper.sarif",
        "wiper scan model.onnx --clean images/ --budget 20m --dry-run",
    ),
)
@click.argument("models", nargs=-1, type=MODELS, metavar="MODEL…")
@shared_options
@option(
    "--detectors", type=Detectors(), default="all", metavar=Detectors.name,
    help="Which detectors look; 'wiper doctor' lists them.",
)  # fmt: skip
@EFFORT
@option(
    "--budget", type=Duration(), metavar=Duration.name,
    help="Choose the effort that is expected to fit into this time, as measured before the work; --timeout ends it.",
)  # fmt: skip
@option(
    "--canaries", type=click.IntRange(0, 50), default=0, metavar="N",
    help="Where nothing is found: plant N known backdoors in copies of the model, look for them in the same way, and "
    "say how many were found. Each takes the time of a scan, and of training the copy.",
)  # fmt: skip
@option(
    "--fleet", type=click.Path(path_type=Path), metavar="FILE",
    help="Also scan the models that a TOML or CSV file names, each as its line says (docs/fleet.md).",
)  # fmt: skip
@JOBS
@option(
    "--ray", metavar="ADDRESS",
    help="Scan on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT. Models, images and DIR must stand at the "
    "same paths on all its machines.",
)  # fmt: skip
@option(
    "--output-dir", type=click.Path(path_type=Path), metavar="DIR",
    help="A folder a model with its report, and one page over all; the same call again does what is missing.",
)  # fmt: skip
@option("--dry-run", is_flag=True, help="Say what would be done and what it would take, and stop.")
@option(
    "--explain", type=click.Path(path_type=Path), metavar="DIR",
    help="Images that carry a trigger, in folders of their true classes or flat: show what they do to the units. "
    "The verdict does not use them.",
)  # fmt: skip
@option(
    "--diff", type=click.Path(path_type=Path), metavar="OLD.json",
    help="An earlier report, as -f json writes it: say what has changed since.",
)  # fmt: skip
@option(
    "--ignore", type=click.Path(path_type=Path), metavar="FILE",
    help="Findings that somebody answers for (wiper-ignore.toml): they stay in the report and do not fail the run. "
    "Never looked for, only read from here.",
)  # fmt: skip
@option(
    "--write-ignore", type=click.Path(path_type=Path), metavar="FILE",
    help="Add an entry for every finding that fails to such a file, for you to give reason and owner.",
)  # fmt: skip
@option(
    "--no-cache", is_flag=True,
    help="Neither use what an earlier scan of the same bytes, images and settings found, nor keep what this one finds; "
    "'wiper cache' shows what is kept.",
)  # fmt: skip
@click.pass_context
def scan(
    context: click.Context, /, models: tuple[Place, ...], explain: Path | None, jobs: int, **asked: Any
) -> None:
    """Look for a backdoor, and score the units of the last layer.

    The exit code is 0 when nothing at or above --fail-on was found, 1 on a finding, 2 for a wrong call or an
    unreadable file, 3 when there is no verdict. A scan that is ended early says what it found until then.
    """
    settings = Settings.of(context)
    if not models and asked["fleet"] is None:
        raise click.UsageError("Missing argument 'MODEL…', or --fleet FILE.")
    if models:
        require_clean(settings)
    if explain is not None:
        require_folder(explain, "The folder of triggered images")
    check_requested(settings.output_formats, models)
    effort = {name: asked[name] for name in ("detectors", "effort", "budget", "canaries")}
    given = [Item(model, settings, effort) for model in models]
    if asked["fleet"] is not None:
        given += lines(asked["fleet"], context, settings, effort)
    if asked["write_ignore"]:
        text_of(asked["write_ignore"])
    earlier = read_reports(asked["diff"]) if asked["diff"] else None
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("scan", settings, display, asked["ignore"] and Ignores.read(asked["ignore"]))
        every = items(run, given)
        if asked["dry_run"]:
            for item in every:
                click.echo(f"{item.model}: {planned(run, item)}")
            context.exit(ExitCode.OK)
        folder = None
        if asked["output_dir"] is not None:
            folder = FleetFolder.at(asked["output_dir"], every, display.say)
            every = folder.items
        root = folder.root.absolute() if folder else None
        work = Scan(explain and explain.absolute(), not asked["no_cache"], root, seal() if root else None)
        hold = folder is None or any((settings.output_formats, earlier, asked["write_ignore"], run.ignores))
        with _cluster(context, asked["ray"], settings) as cluster:
            outcomes = in_order(run, every, work, jobs, folder, hold, cluster)
    reports = [outcome.document for outcome in outcomes]
    for document in reports if earlier is not None else ():
        document["changes"] = changes(document, earlier or (), str(asked["diff"]), len(reports) == 1)
    told = folder is not None or cluster is not None or min(jobs, len(every)) > 1
    code = finish(run, reports, told, written=folder is not None)
    if asked["write_ignore"]:
        examined = [(one.digest, one.document) for one in outcomes if one.digest]
        count = append(asked["write_ignore"], examined, settings.fail_on)
        run.display.say(f"Entries added to {asked['write_ignore']}: {count}; fill in reason and owner.")
    context.exit(code)


@contextmanager
def _cluster(context: click.Context, address: str | None, settings: Settings) -> Iterator[Fleet | None]:
    """The cluster that --ray names; with as many scans at once as find room, unless --jobs says how many."""
    if address is None:
        yield None
        return
    jobs = context.params["jobs"] if origin(context, "jobs") != "default" else None
    with connect(address, jobs, settings.device) as fleet:
        yield replace(fleet, retries=RETRIES)
