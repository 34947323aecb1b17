"""``wiper rebuild MODEL --arch NAME -o OUT``: the weights in a definition that the user trusts, without the graph."""

from pathlib import Path
from typing import Any

import click

from formats.safetensors.pack import safetensors_file
from wiper_cli.audit.requests import InspectRequest, RebuildRequest
from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.options import MODEL, Settings, option, shared_options
from wiper_cli.commands.shared.run import Run
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.commands.shared.transaction import commit, lay_out, reserved
from wiper_cli.reports.plain import plain, size
from wiper_cli.verdict import Problem

#: Leftovers that are listed.
LISTED = 50


@click.command(
    cls=Command,
    own="Rebuilding",
    examples=("wiper rebuild branched.pt --arch resnet18 -o rebuilt.safetensors",),
)
@click.argument("model", type=MODEL)
@option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT",
    help="safetensors file to write.",
)  # fmt: skip
@option("--force", is_flag=True, help="Replace OUT when it exists.")
@shared_options
@click.pass_context
def rebuild(context: click.Context, /, model: Path, output: Path, force: bool, **_: Any) -> None:
    """Move the weights into a definition that you trust.

    By name and shape, into a network that --arch names; the graph of MODEL, and with it any branch, stays behind. What
    is left over is listed. Needs no images: scan OUT before use. Exit code 0: written. 2: nothing was written, as the
    file is refused or its weights do not fit. 3: the outcome could not be opened.
    """
    settings = Settings.of(context)
    if settings.arch is None:
        raise Problem("Say into what the weights shall move: --arch NAME, or --arch FILE.py:FACTORY.")
    with reserved(output, model, force) as place, Display(settings.quiet, settings.verbose) as display:
        run = Run("rebuild", settings, display)
        with run.subject(model) as subject:
            found = run.ask(RebuildRequest(model=subject.copy, arch=settings.arch))
            stage = lay_out(place, subject.source, {output.name: safetensors_file(found.tensors)})
        with run.subject(
            stage.model
        ) as written:  # through the gate, and into a network that its runtime agrees with
            run.ask(InspectRequest(model=written.copy, arch=settings.arch))
        commit(place, stage)
    name = plain(found.architecture, 80)
    click.echo(f"{found.moved} tensors moved into {name}.")
    if found.left:
        more = f" and {len(found.left) - LISTED} more" if len(found.left) > LISTED else ""
        listed = ", ".join(plain(one, 80) for one in found.left[:LISTED])
        click.echo(f"Left in {plain(model, 200)}, for which {name} has no place: {listed}{more}.")
    click.echo(f"Wrote {plain(output, 200)} ({size(stage.size)}, sha256 {stage.sha256}). Scan it before use.")
