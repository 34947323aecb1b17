"""The ``WIPER_*`` variables that options read, and a word on those that none does: a misspelt one does nothing."""

import os
from collections.abc import Iterator
from difflib import get_close_matches

import click

from wiper_cli.reports.plain import plain

PREFIX = "WIPER_"
#: Read without an option.
_OTHERS = ("WIPER_DEBUG",)


def tell_unknown(context: click.Context) -> None:
    """One line on stderr with the variables of the environment that no option of any command reads. Their values may
    be secrets and are not shown."""
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    known = {*_OTHERS, *_variables(context.command, context)} if given else set()
    unknown = [name for name in given if name not in known]
    if unknown:
        said = ", ".join(_said(name, known) for name in unknown[:5])
        click.echo(plain(f"wiper: nothing reads {said}, which the environment sets."), err=True)


def _said(name: str, known: set[str]) -> str:
    # Without what all have in common, which would make any two look alike.
    near = get_close_matches(name.removeprefix(PREFIX)[:80], [one.removeprefix(PREFIX) for one in known], 1)
    return f"{name} (the nearest is {PREFIX}{near[0]})" if near else name


def _variables(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        names = parameter.envvar or ()
        yield from [names] if isinstance(names, str) else names
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _variables(inner, context)
