"""``wiper rules [ID]``: what a finding means and what to do about it."""

from __future__ import annotations

import difflib

import click

from wiper_cli.verdict import Problem


@click.command()
@click.argument("rule", required=False, metavar="[ID]")
def rules(rule: str | None) -> None:
    """List the rules, or explain one."""
    from wiper_cli.rules import RULES, explain

    if rule is None:
        for known in RULES.values():
            click.echo(f"{known.id:<14} {known.title}")
        return
    text = explain(rule.upper())
    if text is None:
        near = difflib.get_close_matches(rule.upper(), list(RULES), 1)
        raise Problem(f"There is no rule {rule}{f'; the nearest is {near[0]}' if near else ''}.")
    click.echo(text)
