"""``wiper purify MODEL --clean DIR -o OUT``: remove the backdoor, prove it, write the same kind of file."""

from pathlib import Path
from typing import Any

import click

from formats.safetensors.shards import SUFFIX
from wiper_cli.audit.answers import PurifyAnswer
from wiper_cli.audit.requests import CheckRequest, PurifyRequest
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.method_options import MethodCommand, MethodName, Triggered, method_settings
from wiper_cli.commands.shared.options import (
    EFFORT,
    MODEL,
    Detectors,
    Number,
    Settings,
    option,
    shared_options,
)
from wiper_cli.commands.shared.run import Run, Subject, check_requested, finish, require_clean
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.commands.shared.transaction import Destination, commit, lay_out, reserved
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import ExitCode, Problem, Verdict


@click.command(
    cls=MethodCommand,
    own="Purification",
    examples=(
        "wiper purify model.onnx --clean images/ -o purified.onnx -f html=report.html",
        "wiper purify model.onnx --clean images/ -o out.onnx --method ban --epochs 5",
    ),
)
@click.argument("model", type=MODEL)
@option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT", help="File to write."
)  # fmt: skip
@option("--force", is_flag=True, help="Replace OUT when it exists.")
@option(
    "--method", type=MethodName(), default=next(iter(METHODS)), metavar="NAME",
    help="How to purify.",
)  # fmt: skip
@option(
    "--max-accuracy-drop", type=Number(0, 100), default=100 * PurifyRequest.max_accuracy_drop,
    metavar="POINTS",
    help="Most accuracy it may cost.",
)  # fmt: skip
@option(
    "--detectors", type=Detectors(), default="all", metavar=Detectors.name,
    help="all, none, or names.",
)  # fmt: skip
@EFFORT
@option(
    "--max-rounds", type=click.IntRange(1, 20), default=PurifyRequest.max_rounds, metavar="N",
    help="Most rounds of scan and method.",
)  # fmt: skip
@option(
    "--target", "targets", type=click.IntRange(min=0), multiple=True, metavar="CLASS",
    help="A class known to be the target; repeatable.",
)  # fmt: skip
@option(
    "--triggered", cls=Triggered, type=click.Path(path_type=Path), metavar="DIR",
    help="Images with the trigger, for {methods}.",
)  # fmt: skip
@option(
    "--batch-norm", type=click.Choice(["frozen", "live"]), default="frozen", metavar="frozen|live",
    help="live: its statistics too.",
)  # fmt: skip
@option(
    "--accept-unverified", is_flag=True,
    help="Write also what nothing could verify.",
)  # fmt: skip
@shared_options
@click.pass_context
def purify(context: click.Context, /, model: Path, **_: Any) -> None:
    """Remove a backdoor; write the same kind of file or nothing.

    Exit code 0: a verified file was written. 1: not accepted, nothing written. 2: wrong call or unreadable input. 3: no
    verdict.
    """  # fmt: skip
    settings = Settings.of(context)
    details = context.params
    require_clean(settings)
    output: Path = details["output"]
    check_requested(settings.output_formats, [model, output])
    method = METHODS[details["method"]](**method_settings(context, details["method"]))
    with (
        reserved(output, model, details["force"]) as place,
        Display(settings.quiet, settings.verbose) as display,
    ):
        run = Run("purify", settings, display)

        def work(document: Document) -> None:
            perform(
                run,
                model,
                place,
                document,
                method=method,
                max_accuracy_drop=details["max_accuracy_drop"] / 100,
                detectors=Detectors.named(details["detectors"]),
                effort=details["effort"],
                max_rounds=details["max_rounds"],
                targets=details["targets"],
                triggered=details["triggered"],
                live=details["batch_norm"] == "live",
                accept_unverified=details["accept_unverified"],
            )

        report = run.document(model, work)
    context.exit(finish(run, [report]))


def perform(run: Run, model: Path, place: Destination, document: Document, **asked: Any) -> None:
    """Purifies ``model`` as ``asked``, the fields of a :class:`PurifyRequest`, writes it to ``place`` if that is
    accepted, and tells ``document``."""
    output = place.output
    with run.subject(model, document) as subject:
        if (
            subject.gated.kind == "safetensors"
            and subject.gated.locations
            and not output.name.endswith(SUFFIX)
        ):
            raise Problem(
                f"The model is an index of {len(subject.gated.locations)} shards, and so is what is written: "
                f"name it like {output.stem}{SUFFIX}."
            )
        answer = run.ask_at_length(PurifyRequest(**run.examined(subject), **asked))
        documents.merge(document, answer)
        if answer.accepted:
            _write(run, subject, answer, place, document)
    _conclude(document, run.settings)


def _write(run: Run, subject: Subject, answer: PurifyAnswer, place: Destination, document: Document) -> None:
    """Lays the file out, has it measured by the runtime that serves it, and only then gives it its name."""
    stage = lay_out(place, subject.source, run.written(subject, answer.edit, place.output.name))
    request = CheckRequest(
        model=stage.model,
        arch=run.settings.arch or (answer.architecture if subject.gated.kind == "safetensors" else None),
        logits=answer.logits,
        dtypes=subject.gated.dtypes,
        expected=answer.expected,
    )
    checked = run.ask(request)
    difference = checked.largest_logit_difference
    if not checked.agrees:
        how = "no usable logits" if difference is None else f"a largest difference of {difference:.2g}"
        document["purification"]["accepted"] = False
        document["purification"]["reason"] = document["sentence"] = (
            f"The written file gave other logits in its own runtime ({how}); it was deleted."
        )
        return
    commit(place, stage)
    document["purification"]["output"] = {
        "path": str(place.output),
        "data": list(stage.data),
        "sha256": stage.sha256,
        "size": stage.size,
        "kind": subject.gated.kind,
        "largest_logit_difference": difference,
    }


def _conclude(document: Document, settings: Settings) -> None:
    """0 only when a file was written; not accepted is 1, not decidable is 3."""
    purification = document["purification"]
    if purification and purification["accepted"]:
        code = ExitCode.OK
    elif document["verdict"] == Verdict.INCOMPLETE:
        code = ExitCode.NO_VERDICT
    else:
        code = ExitCode.FINDING
    document["exit_code"] = int(documents.spare(code, settings.exit_zero))
