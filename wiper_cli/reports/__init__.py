"""Reports: one result mapping, rendered as people or machines want it. No torch, no model, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from wiper_cli.nearest import nearest
from wiper_cli.reports.json import LIST_SCHEMA, as_document
from wiper_cli.reports.plain import Report, Style, bounded, uncommanded
from wiper_cli.strict_json import loads
from wiper_cli.verdict import Problem

__all__ = ["FORMATS", "Output", "Style", "as_document", "outputs", "read", "render", "style_of"]

#: Format → module with ``render(reports, style) -> str``; imported on use.
FORMATS: Mapping[str, str] = {
    "text": "wiper_cli.reports.text",
    "json": "wiper_cli.reports.json",
    "html": "wiper_cli.reports.html",
    "sarif": "wiper_cli.reports.sarif",
    "markdown": "wiper_cli.reports.markdown",
    "junit": "wiper_cli.reports.junit",
    "cyclonedx": "wiper_cli.reports.cyclonedx",
    "in-toto": "wiper_cli.reports.intoto",
    "model-card": "wiper_cli.reports.modelcard",
}

#: Bytes of a file with reports that is read, and commas and brackets in it: a text takes nine times its bytes of memory
#: while it is read, and a value far more than it has letters.
MOST, MOST_VALUES = 128 << 20, 3_000_000


@dataclass(frozen=True)
class Output:
    """One ``-f FORMAT[=FILE]``; ``path`` ``None`` is standard output."""

    format: str
    path: Path | None = None


def outputs(values: Sequence[str]) -> tuple[Output, ...]:
    """What ``-f`` said, in order; nothing said is text on standard output.

    Raises :class:`Problem` for an unknown format, an empty file name, or two reports for one place.
    """
    found: list[Output] = []
    for value in values or ("text",):
        name, equals, path = value.partition("=")
        if name not in FORMATS:
            raise Problem(
                f"There is no report format {name!r}{nearest(name, FORMATS)}; choose from {', '.join(FORMATS)}."
            )
        if equals and not path:
            raise Problem(f"-f {name}= needs a file name; leave out the equals sign for standard output.")
        output = Output(name, Path(path) if path else None)
        if any(other.path == output.path for other in found):
            where = output.path or "standard output"
            raise Problem(f"Two reports cannot both go to {where}; give one of them a file: -f {name}=FILE.")
        found.append(output)
    return tuple(found)


def render(name: str, reports: Sequence[Report], style: Style | None = None) -> str:
    """``reports`` in format ``name`` (key of :data:`FORMATS`), ending in one newline.

    NaN and infinities become "not measured"; the reports themselves are trusted in shape (see
    :func:`read`) and in nothing else: every string may come from a hostile file.
    """
    module = import_module(FORMATS[name])
    text: str = module.render([bounded(report) for report in reports], style or Style())
    return (text if name in ("json", "sarif", "cyclonedx", "in-toto") else uncommanded(text)).rstrip(
        "\n"
    ) + "\n"


def read(text: str | bytes) -> list[dict[str, Any]]:
    """The reports of a JSON document, checked against the schema.

    Raises :class:`Problem` with the first thing that is wrong.
    """
    from wiper_cli.reports.schema import problem

    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise Problem(f"This holds more than {MOST_VALUES:,} values, which no report does.")
    try:
        document = loads(text)
    except (ValueError, RecursionError):
        raise Problem("This is not JSON; give the file that `wiper … -f json=FILE` wrote.") from None
    try:
        wrong = problem(document)
    except RecursionError:
        wrong = "it nests too deep"
    if wrong:
        raise Problem(f"This is not a wiper report: {wrong}.")
    reports = document["reports"] if document["schema"] == LIST_SCHEMA else [document]
    return [dict(report) for report in reports]


def style_of(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """Width and colour for a stream: ``NO_COLOR`` wins, then ``FORCE_COLOR``, then being a terminal. What is no
    terminal may be a file that something reads: there every line is a comment."""
    import shutil

    terminal = stream.isatty()
    colour = not environ.get("NO_COLOR") and (bool(environ.get("FORCE_COLOR")) or terminal)
    if colour and environ.get("TERM") == "dumb" and not environ.get("FORCE_COLOR"):
        colour = False
    columns = shutil.get_terminal_size((Style.width, 24)).columns if terminal else Style.width
    return Style(max(40, min(columns, 120)), colour, comment=not terminal)
