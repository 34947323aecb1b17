"""``wiper convert CHECKPOINT -o OUT``: the tensors of a pickled checkpoint as safetensors; nothing of it is loaded."""

import math
import time
from pathlib import Path

import click

from formats import Hostile
from formats.identify import read_model
from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.options import Number
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.commands.shared.transaction import commit, lay_out, reserved
from wiper_cli.reports.plain import plain
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.confinement import Mode
from wiper_cli.worker.gate import ConvertAnswer, ConvertJob, GateJob, bounds
from wiper_cli.worker.parent import ask, private_copy
from wiper_cli.worker.watch import Allowance

#: Most that is named of what was left out, and of what the pickle would have called.
_SHOWN = 8


@click.command(
    cls=Command,
    examples=(
        "wiper convert checkpoint.pth -o model.safetensors",
        "wiper convert run.ckpt -o model.safetensors --key ema.state_dict",
    ),
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT", help="Safetensors file to write."
)  # fmt: skip
@click.option(
    "--key", default="", metavar="NAME", help="Where the network's tensors stand, as 'ema.state_dict'."
)
@click.option("--force", is_flag=True, help="Replace OUT when it exists.")
@click.option("--timeout", type=Number(min=1), metavar="SECONDS", help="Give up after this long.")
@click.option(
    "--isolation", type=click.Choice(["auto", "require", "off"]), default="auto", show_default=True,
    help="Confinement of the process that reads the checkpoint.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but refusals and findings.")
@click.pass_context
def convert(
    context: click.Context,
    /,
    checkpoint: Path,
    output: Path,
    key: str,
    force: bool,
    timeout: float | None,
    isolation: Mode,
    quiet: bool,
) -> None:
    """Write the tensors of a torch.save checkpoint (.pth, .pt, .ckpt, .bin) as safetensors.

    The pickle is read as data: nothing in it is imported, built or called. Exit code 1: it names what would do
    harm when torch.load reads it, or calls what is not known to do none; then its tensors are written all the same.
    The same holds of modules that it only names: torch.load imports them, which runs them.
    """  # fmt: skip
    with reserved(output, checkpoint, force) as place, Display(quiet, False) as display:
        source = read_model(checkpoint)
        limit = Allowance(timeout or math.inf, time.monotonic())
        with private_copy(source) as copy:
            job = ConvertJob(model=copy, key=key)
            try:
                found = ask(
                    job, display.progress, display.log, limit, isolation, bounds=bounds(source, copies=12)
                )
            except Hostile as error:
                raise Problem(
                    f"{checkpoint}: {error} Nothing of it was run, and nothing written.", ExitCode.FINDING
                ) from error
        stage = lay_out(place, source, {output.name: found.files[""].data})
        written = read_model(stage.model)
        # What was written is judged by its bytes, as any file that comes from elsewhere.
        gated = ask(
            GateJob(model=stage.model),
            display.progress,
            display.log,
            limit,
            isolation,
            bounds=bounds(written),
        )
        if gated.kind != "safetensors" or gated.tensors != found.tensors:
            raise Problem(
                "The written file does not hold what was read; it was deleted.", ExitCode.NO_VERDICT
            )
        commit(place, stage)
    if not quiet:
        _say(found, output)
    parts = [("call", found.unknown), ("import", found.strange)]
    if harm := [f"{verb} {_listed(names)}, not known to be harmless" for verb, names in parts if names]:
        said = (
            f"WIPER-PKL-001: torch.load(weights_only=False) would {', and '.join(harm)}: load {output}, not the "
            "checkpoint. Nothing of it was run."
        )
        click.echo(plain(f"wiper: {said}"), err=True)
    context.exit(ExitCode.FINDING if harm else ExitCode.OK)


def _say(found: ConvertAnswer, output: Path) -> None:
    place = f"under {found.place!r}" if found.place else "at the top"
    click.echo(plain(f"{output}: {found.tensors} tensors, which stood {place} of the checkpoint."))
    if found.left_out:
        click.echo(plain(f"Left out: {_listed(found.left_out)}."))
    for done, names, known in (
        ("called", found.called, found.unknown),
        ("imported", found.named, found.strange),
    ):
        if left := tuple(name for name in names if name not in known):
            said = f"Not {done}, though torch.load would (weights_only=False): {_listed(left)}."
            click.echo(plain(said), err=True)


def _listed(words: tuple[str, ...]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
