"""``wiper scan MODEL… --clean DIR``: look for a backdoor that nobody described."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wiper_cli.audit.answers import ScanAnswer
from wiper_cli.audit.requests import PlanRequest, ScanRequest
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.batch import in_order
from wiper_cli.commands.shared.cache import Cache, Entry, place
from wiper_cli.commands.shared.cache_key import Key, key_of
from wiper_cli.commands.shared.document import Document
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
    shared_options,
)  # fmt: skip
from wiper_cli.commands.shared.run import (
    Run,
    Subject,
    check_requested,
    finish,
    read_reports,
    require_clean,
    require_folder,
)
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.reports.changes import changes
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker.watch import INTERRUPTED


@click.command(
    cls=Command,
    own="Search",
    examples=(
        "wiper scan model.onnx --clean images/ -f text -f html=report.html",
        "wiper scan models/*.onnx --clean images/ --effort quick -f sarif=wiper.sarif",
        "wiper scan model.onnx --clean images/ --budget 20m --dry-run",
    ),
)
@click.argument("models", nargs=-1, required=True, type=MODELS, metavar="MODEL…")
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
@JOBS
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
    context: click.Context, /, models: tuple[Path, ...], explain: Path | None, jobs: int, **asked: Any
) -> None:
    """Look for a backdoor, and score the units of the last layer.

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
        "canaries": asked["canaries"],
    }  # fmt: skip
    if asked["write_ignore"]:
        text_of(asked["write_ignore"])
    earlier = read_reports(asked["diff"]) if asked["diff"] else None
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("scan", settings, display, asked["ignore"] and Ignores.read(asked["ignore"]))
        models = run.models(models)
        cache = Cache(None if asked["no_cache"] or asked["dry_run"] else place(), display.say)

        def examine(run: Run, path: Path, document: Document) -> None:
            with run.subject(path, document) as subject:
                request = ScanRequest(**run.examined(subject), **effort, explain=explain)
                _scan(run, subject, request, document, cache)
            run.suppress(document)
            documents.conclude(document, settings.fail_on, settings.exit_zero)

        for path in models if asked["dry_run"] else ():
            with run.subject(path) as subject:
                click.echo(f"{path}: {run.ask(PlanRequest(**run.examined(subject), **effort)).sentence}")
        outcomes = [] if asked["dry_run"] else in_order(run, models, examine, jobs)
    reports = [outcome.document for outcome in outcomes]
    for document in reports if earlier is not None else ():
        document["changes"] = changes(document, earlier or (), str(asked["diff"]), len(reports) == 1)
    code = ExitCode.OK if asked["dry_run"] else finish(run, reports, told=min(jobs, len(models)) > 1)
    if asked["write_ignore"]:
        examined = [(one.digest, one.document) for one in outcomes if one.digest]
        count = append(asked["write_ignore"], examined, settings.fail_on)
        run.display.say(f"Entries added to {asked['write_ignore']}: {count}; fill in reason and owner.")
    context.exit(code)


def _scan(
    run: Run,
    subject: Subject,
    request: ScanRequest,
    document: Document,
    cache: Cache,
) -> None:
    """Into ``document`` what the scan finds, or what it had found when it was run before."""
    key = _key(run, subject, request) if cache.folder else None
    earlier = cache.find(key.name) if key else None
    if earlier and earlier.answer.complete:
        try:
            documents.merge(document, earlier.answer)
        except Problem:
            run.display.say("What the cache holds of this scan keeps no schema of ours; it is run anew.")
            earlier = None
        else:
            _note(document, earlier, True, [one["name"] for one in document["detection"]["detectors"]])
            run.isolated(earlier.isolation)
            return

    def keep(answer: ScanAnswer) -> None:
        if key and key.holds and (answer.complete or answer.kept.pieces):
            name, made = subject.source.name, document["created"]
            cache.put(Entry(key=key.name, made=made, model=name, isolation=run.isolation, answer=answer))

    if earlier:
        request = replace(request, done=earlier.answer.kept)
        run.isolated(earlier.isolation)
    answer = _answer(run, request, keep)
    if earlier and answer.taken:
        _note(document, earlier, False, answer.taken)
    documents.merge(document, answer)


def _key(run: Run, subject: Subject, request: ScanRequest) -> Key | None:
    try:
        return key_of(request, subject.source, run.settings.isolation, run.display.progress)
    except (Problem, OSError):  # which the scan itself will meet, and explain
        return None


def _note(document: Document, earlier: Entry, whole: bool, detectors: Sequence[str]) -> None:
    document["cached"] = {"made": earlier.made, "whole": whole, "detectors": list(detectors)}


def _answer(run: Run, request: ScanRequest, keep: Callable[[ScanAnswer], None]) -> ScanAnswer:
    """The answer, or, where the work ends before it, what stands until then. ``keep`` is told every answer but the last
    of a scan that ends early."""
    latest: list[ScanAnswer] = []

    def heard(answer: ScanAnswer) -> None:
        if not latest and not run.settings.quiet:
            (run.display.say if run.beside == 1 else run.display.log)(answer.plan)
        latest[:] = [answer]
        keep(answer)

    try:
        answer = run.ask(request, interim=heard)
        keep(answer)
        return answer
    except KeyboardInterrupt:
        if not latest:
            raise
        run.stop.set()
        return latest[0].ended(INTERRUPTED)
    except Problem as problem:
        if not latest or problem.exit_code is not ExitCode.NO_VERDICT:
            raise
        return latest[0].ended(str(problem))
