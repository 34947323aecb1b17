"""``wiper inspect MODEL…``: what the file is, what would be opened; seconds, no images."""

from typing import Any

import click

from wiper_cli.audit.requests import InspectRequest
from wiper_cli.commands.fleet.batch import Item, in_order, items
from wiper_cli.commands.shared.document import Document, merge
from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.options import JOBS, MODELS, Settings, option, shared_options
from wiper_cli.commands.shared.remote import Place
from wiper_cli.commands.shared.run import Run, check_requested, finish
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.verdict import KIND_NAMES, ExitCode


@click.command(
    cls=Command,
    own="Inspection",
    examples=(
        "wiper inspect model.safetensors",
        "wiper inspect downloads/*.pt --static -f json=found.json",
    ),
)
@click.argument("models", nargs=-1, required=True, type=MODELS, metavar="MODEL…")
@JOBS
@option("--static", is_flag=True, help="Bytes only: do not open the model.")
@shared_options
@click.pass_context
def inspect(context: click.Context, /, models: tuple[Place, ...], static: bool, jobs: int, **_: Any) -> None:
    """Say what a model file is.

    Kind, architecture, input, classes, head; it looks for no backdoor and needs no images.
    """
    settings = Settings.of(context)
    check_requested(settings.output_formats, models)
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("inspect", settings, display)
        every = items(run, [Item(model, settings) for model in models])

        def look(run: Run, item: Item, document: Document) -> None:
            with run.subject(item.model, document) as subject:
                if static:
                    gated = subject.gated
                    document["sentence"] = f"{KIND_NAMES[gated.kind]} file with {gated.tensors} tensors."
                else:
                    merge(
                        document,
                        run.ask(
                            InspectRequest(model=subject.copy, arch=settings.arch, logits=settings.logits)
                        ),
                    )
            document["verdict"] = "no_finding"
            document["exit_code"] = int(ExitCode.OK)
            document["not_done"].append({"what": "detection", "why": "inspect does not look for backdoors."})

        reports = [outcome.document for outcome in in_order(run, every, look, jobs)]
    context.exit(finish(run, reports, told=min(jobs, len(every)) > 1))
