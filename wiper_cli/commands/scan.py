"""``wiper scan MODEL… --clean DIR``: look for a backdoor that nobody described."""

from pathlib import Path
from typing import Any

import click

from wiper_cli.audit.answers import ScanAnswer
from wiper_cli.audit.requests import PlanRequest, ScanRequest
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.options import (
    EFFORT,
    MODEL,
    Detectors,
    Duration,
    Settings,
    option,
    shared_options,
)  # fmt: skip
from wiper_cli.commands.shared.run import Run, check_requested, finish, require_clean, require_folder
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.verdict import ExitCode, Problem


@click.command()
@click.argument("models", nargs=-1, required=True, type=MODEL, metavar="MODEL…")
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
@option("--dry-run", is_flag=True, help="Say what would be done and what it would take, and stop.")
@option(
    "--explain", type=click.Path(path_type=Path), metavar="DIR",
    help="Images that carry a trigger, in folders of their true classes or flat: show what they do to the units. "
    "The verdict does not use them.",
)  # fmt: skip
@click.pass_context
def scan(context: click.Context, /, models: tuple[Path, ...], explain: Path | None, **asked: Any) -> None:
    """Score the units of the output layer and look for a backdoor.

    The exit code is 0 when nothing at or above --fail-on was found, 1 on a finding, 2 for a wrong call or an
    unreadable file, 3 when there is no verdict. A scan that is ended early says what it found until then.
    """
    settings = Settings.of(context)
    require_clean(settings)
    if explain is not None:
        require_folder(explain, "The folder of triggered images")
    check_requested(settings.output_formats, models)
    effort = {
        "detectors": Detectors.named(asked["detectors"]), "effort": asked["effort"], "budget": asked["budget"],
    }  # fmt: skip
    reports: list[Document] = []
    stopped: list[KeyboardInterrupt] = []
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("scan", settings, display)

        def examine(document: Document) -> None:
            path = Path(document["model"]["path"])
            if len(models) > 1:
                display.subject(path.name)
            with run.subject(path, document) as subject:
                request = ScanRequest(**run.examined(subject), **effort, explain=explain)
                documents.merge(document, _answer(run, request, stopped))
            documents.conclude(document, settings.fail_on, settings.exit_zero)

        for path in models:
            if asked["dry_run"]:
                with run.subject(path) as subject:
                    click.echo(f"{path}: {run.ask(PlanRequest(**run.examined(subject), **effort)).sentence}")
            elif not stopped:
                reports.append(run.document(path, examine))
    context.exit(ExitCode.OK if asked["dry_run"] else finish(run, reports))


def _answer(run: Run, request: ScanRequest, stopped: list[KeyboardInterrupt]) -> ScanAnswer:
    """The answer, or, where the work ends before it, what stands until then; an interrupt joins ``stopped``."""
    latest: list[ScanAnswer] = []

    def heard(answer: ScanAnswer) -> None:
        if not latest and not run.settings.quiet:
            run.display.say(answer.plan)
        latest[:] = [answer]

    try:
        return run.ask(request, interim=heard)
    except KeyboardInterrupt as interrupt:
        if not latest:
            raise
        stopped.append(interrupt)
        return latest[0].ended("It was interrupted.")
    except Problem as problem:
        if not latest or problem.exit_code is not ExitCode.NO_VERDICT:
            raise
        return latest[0].ended(str(problem))
