"""``wiper man``: the manual page, made of the same commands and options as ``--help``.

Roff as groff_man(7) and mandoc's man(7) have it, in ASCII, so that what is copied from the page is what a shell takes.
"""

from __future__ import annotations

import inspect
import os
import textwrap
import time
from collections.abc import Iterable, Iterator

import click

from wiper_cli import __version__
from wiper_cli.commands.shared.help import SECTIONS, Command
from wiper_cli.verdict import ExitCode

#: Of a line, before anything in it is escaped.
_WIDTH = 72
_ESCAPED = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_EXITS = {
    ExitCode.OK: "Examined; nothing at or above --fail-on. purify: a verified file was written.",
    ExitCode.FINDING: "A finding. purify: not accepted, nothing was written. convert: written all the same unless it "
    "says that nothing was.",
    ExitCode.USAGE: "Wrong usage, unreadable input, internal failure.",
    ExitCode.NO_VERDICT: "No verdict: unsupported, too little data, time or budget spent, the worker died. purify: the "
    "scan found nothing.",
}
_FILES = {
    "./wiper.toml, [tool.wiper] of ./pyproject.toml": "Read without being named; may tighten what is asked, and name "
    "clean images and new reports within the folder.",
    "wiper-ignore.toml": "Findings that somebody answers for; read only where --ignore names it.",
    "$XDG_CACHE_HOME/wiper, else the cache folder of the system": "Results of earlier scans; see wiper cache.",
    "wiper-runs, beside it": "Records of folders that a run is writing in; those of killed runs go with the next one.",
}


@click.command(
    cls=Command,
    examples=(
        "wiper man > wiper.1 && man ./wiper.1",
        "wiper man > ~/.local/share/man/man1/wiper.1",
    ),
)
@click.pass_context
def man(context: click.Context) -> None:
    """Print the manual page, all commands and options in one, as man and mandoc read it."""
    click.echo("\n".join(page(context.find_root().command)))


def page(command: click.Command) -> Iterator[str]:
    """Its lines. Dated by ``SOURCE_DATE_EPOCH``, else today."""
    root = click.Context(
        command, info_name="wiper", help_option_names=command.context_settings["help_option_names"]
    )
    made = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    yield f'.TH WIPER 1 {time.strftime("%Y-%m-%d", made)} "wiper {__version__}" "User Commands"'
    yield from (
        ".SH NAME",
        rf"wiper \- {escaped(command.get_short_help_str(200).rstrip('.'))}",
        ".SH SYNOPSIS",
    )
    yield from _usage(command, root)
    yield ".SH DESCRIPTION"
    yield from _text(command.help)
    yield ".SH OPTIONS"
    yield from _terms(_records(command, root))
    yield ".SH COMMANDS"
    shared: dict[str, dict[str, str]] = {}
    for inner in _tree(command, root):
        yield rf".SS {escaped(inner.command_path)}"
        yield from _of_command(inner, shared)
    yield ".SH SHARED OPTIONS"
    for title, rows in shared.items():
        yield from (".SS " + escaped(title), *_terms(rows.items()))
    yield ".SH EXIT STATUS"
    yield from _terms((str(int(code)), said) for code, said in _EXITS.items())
    yield from (".PP", *_text("Over several files 1 comes before 2 before 3 before 0."), ".SH ENVIRONMENT")
    yield from _text(
        "An option of scan, purify, verify, inspect and rebuild is read from a variable as well: WIPER_ and its name "
        "in capitals, as WIPER_FAIL_ON for --fail-on. WIPER_DEBUG: where an internal failure arose."
    )
    yield ".SH FILES"
    yield from _terms(_FILES.items())


def escaped(text: str) -> str:
    """``text`` as roff that shows just these characters; the line may still begin with one that makes it a request."""
    return "".join(_ESCAPED.get(c) or (c if c.isascii() else rf"\[u{ord(c):04X}]") for c in text)


def line(text: str) -> str:
    """A line of text that is no request, whatever it begins with."""
    return (r"\&" if text[:1] in (".", "'") else "") + escaped(text)


def _text(text: str | None) -> Iterator[str]:
    """Paragraphs, as docstrings have them."""
    for number, paragraph in enumerate(inspect.cleandoc(text or "").split("\n\n")):
        yield from [".PP"] * bool(number)
        yield from map(line, textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, said in rows:
        yield from (".TP", rf"\fB{escaped(term)}\fR", *_text(said))


def _usage(command: click.Command, context: click.Context) -> Iterator[str]:
    yield rf"\fB{escaped(context.command_path)}\fR {escaped(' '.join(command.collect_usage_pieces(context)))}"


def _records(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    options = (one for one in command.get_params(context) if isinstance(one, click.Option))
    return [found for one in options if (found := one.get_help_record(context))]


def _tree(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """Every command below, each behind the one that it belongs to."""
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        found = click.Context(inner, parent=context, info_name=name)
        yield found
        yield from _tree(inner, found)


def _of_command(context: click.Context, shared: dict[str, dict[str, str]]) -> Iterator[str]:
    """Usage, help, the options of its own, examples. Options of sections that commands share go to ``shared``."""
    command = context.command
    yield from (*_usage(command, context), ".PP", *_text(command.help))
    parts = command.sections(context) if isinstance(command, Command) else {"": _records(command, context)}
    told = {names for rows in parts.values() for names, _ in rows}
    there = [title for title in parts if title in SECTIONS]
    for title, rows in parts.items():
        if title in there:
            shared.setdefault(title, {}).update(rows)
        else:
            yield from _terms(rows)
    if there:
        yield ".PP"
        yield from _text(f"Also the shared options, below: {'; '.join(there)}.")
    if settings := [row for row in _records(command, context) if row[0] not in told]:
        yield ".PP"
        yield from _text("Settings of methods; --method NAME --help tells those of one, and their defaults.")
        yield from _terms(settings)
    if examples := getattr(command, "examples", ()):
        yield from (".PP", "Examples:", ".RS 4", ".nf", *map(line, examples), ".fi", ".RE")
