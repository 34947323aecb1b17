"""``wiper report RESULT.json``: render an old result again, without opening any model."""

from pathlib import Path

import click

from wiper_cli.commands.shared.help import Command
from wiper_cli.commands.shared.options import option
from wiper_cli.commands.shared.run import check_requested, deliver, read_reports
from wiper_cli.reports import FORMATS


@click.command(
    cls=Command,
    examples=(
        "wiper report result.json -f html=report.html",
        "wiper report result.json -f markdown",
    ),
)
@click.argument("result", type=click.Path(path_type=Path), metavar="RESULT.json")
@option(
    "-f", "--format", "output_formats", multiple=True, metavar="FORMAT[=FILE]",
    help=f"Report format ({', '.join(FORMATS)}), to stdout or to FILE; repeatable.",
)  # fmt: skip
def report(result: Path, output_formats: tuple[str, ...]) -> None:
    """Render a JSON result in other formats."""
    check_requested(output_formats)
    deliver(output_formats, read_reports(result))
