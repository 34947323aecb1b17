"""``wiper verify MODEL [OUT] --clean DIR``: accuracy, attack success and recovery, before and after."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from wiper_cli.audit.requests import KnownTrigger, VerifyRequest
from wiper_cli.commands.shared import completion
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.completion import names_of
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.options import MODEL, Number, Settings, option, shared_options
from wiper_cli.commands.shared.run import Run, check_requested, finish, require_clean
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.verdict import Problem


class _Position(click.ParamType):  # type: ignore[type-arg]
    name = "X,Y"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        try:
            x, y = (
                int(part) for part in (value if isinstance(value, (list, tuple)) else str(value).split(","))
            )
        except ValueError:
            self.fail(f"{value!r} is not a position such as 29,29 (from the left, from the top).", param, ctx)
        return x, y


@click.command(
    cls=Command,
    own="Triggers",
    examples=(
        "wiper verify model.onnx purified.onnx --clean images/",
        "wiper verify model.onnx --clean images/ --trigger-image patch.png --target 0",
    ),
)
@click.argument("model", type=MODEL)
@click.argument("purified", type=MODEL, required=False, metavar="[OUT]")
@option(
    "--triggers", default="all", metavar="NAMES",
    shell_complete=names_of(completion.triggers, many=True),
    help="all, none, or families that 'wiper triggers' lists.",
)  # fmt: skip
@option("--trigger-image", type=click.Path(path_type=Path), metavar="PNG", help="A known trigger.")
@option(
    "--mask", type=click.Path(path_type=Path), metavar="PNG", help="Where the known trigger covers (white)."
)  # fmt: skip
@option("--alpha", type=Number(0, 1), default=KnownTrigger.alpha, help="Opacity of the known trigger.")
@option("--position", type=_Position(), help="Top left corner of the known trigger.")
@option(
    "--trigger-file", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
    help="A trigger as 'wiper zoo' writes it; repeatable.",
)  # fmt: skip
@option(
    "--fit", is_flag=True, help="Also fit the families that depend on a model, to this one and for --target."
)  # fmt: skip
@option("--poisoned", type=click.Path(path_type=Path), metavar="DIR", help="Folder of triggered images.")
@option(
    "--target", type=click.IntRange(min=0), metavar="CLASS", help="The class the trigger aims at, by number."
)  # fmt: skip
@option(
    "--max-asr", type=Number(0, 100), default=100 * VerifyRequest.max_asr, metavar="PERCENT",
    help="Attack success, above the base rate, from which a trigger counts as working.",
)  # fmt: skip
@shared_options
@click.pass_context
def verify(context: click.Context, /, model: Path, purified: Path | None, **_: Any) -> None:
    """Measure accuracy and attack success against triggers.

    ACC: accuracy. ASR: attack success rate. RA: triggered images still classified rightly.

    With OUT, the purified file is measured on the same images and set beside the original.
    """  # fmt: skip
    settings = Settings.of(context)
    details = context.params
    require_clean(settings)
    check_requested(settings.output_formats, [model, *([purified] if purified else [])])
    if details["trigger_image"] is None and (details["mask"] or details["position"]):
        raise Problem("--mask and --position describe a --trigger-image, which is missing.")
    if details["poisoned"] is not None and details["target"] is None:
        raise Problem("--poisoned needs --target: the class that its images are meant to reach.")
    if details["fit"] and details["target"] is None:
        raise Problem("--fit needs --target: the class that the triggers are fitted for.")
    image, asked = details["trigger_image"], details["triggers"]
    known = None
    if image is not None:
        known = KnownTrigger(
            image=image, mask=details["mask"], alpha=details["alpha"], position=details["position"]
        )
    families = {"all": None, "none": ()}.get(asked, tuple(asked.split(",")))
    with Display(settings.quiet, settings.verbose) as display:
        run = Run("verify", settings, display)

        def work(document: Document) -> None:
            again = nullcontext() if purified is None else run.subject(purified)
            with run.subject(model, document) as before, again as after:
                request = VerifyRequest(
                    **run.examined(before),
                    purified=after.copy if after else None,
                    triggers=families,
                    trigger_files=details["trigger_file"],
                    fit=details["fit"],
                    known=known,
                    poisoned=details["poisoned"],
                    target=details["target"],
                    max_asr=details["max_asr"] / 100,
                )
                documents.merge(document, run.ask(request))
            documents.conclude(document, settings.fail_on, settings.exit_zero)

        report = run.document(model, work)
    context.exit(finish(run, [report]))
