"""``wiper scan MODEL… --clean DIR``: look for a backdoor that nobody described."""

from pathlib import Path
from typing import Any

import click

from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.options import MODEL, Detectors, Settings, option, shared_options
from wiper_cli.commands.shared.run import Run, check_requested, finish, require_clean, require_folder
from wiper_cli.commands.shared.terminal import Display


@click.command()
@click.argument("models", nargs=-1, required=True, type=MODEL, metavar="MODEL…")
@shared_options
@option(
    "--detectors", type=Detectors(), default="all", metavar=Detectors.name,
    help="Which detectors look; 'wiper doctor' lists them.",
)  # fmt: skip
@option(
    "--explain", type=click.Path(path_type=Path), metavar="DIR",
    help="Images that carry a trigger, in folders of their true classes or flat: show what they do to the units. "
    "The verdict does not use them.",
)  # fmt: skip
@click.pass_context
def scan(
    context: click.Context, /, models: tuple[Path, ...], detectors: str, explain: Path | None, **_: Any
) -> None:
    """Score the units of the output layer and look for a backdoor.

    The exit code is 0 when nothing at or above --fail-on was found, 1 on a finding, 2 for a wrong call or an
    unreadable file, 3 when there is no verdict.
    """
    settings = Settings.of(context)
    require_clean(settings)
    if explain is not None:
        require_folder(explain, "The folder of triggered images")
    check_requested(settings.output_formats, models)
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("scan", settings, display)

        def examine(document: Document) -> None:
            path = Path(document["model"]["path"])
            if len(models) > 1:
                display.subject(path.name)
            with run.subject(path, document) as subject:
                asked = Detectors.named(detectors)
                request = ScanRequest(**run.examined(subject), detectors=asked, explain=explain)
                documents.merge(document, run.ask(request))
            documents.conclude(document, settings.fail_on, settings.exit_zero)

        reports = [run.document(path, examine) for path in models]
    context.exit(finish(run, reports))
