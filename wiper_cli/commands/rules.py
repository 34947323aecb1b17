"""``wiper rules [ID]``: what a finding means and what to do about it."""

import click

from wiper_cli.commands.shared import completion
from wiper_cli.commands.shared.completion import names_of
from wiper_cli.commands.shared.help import Command
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem


@click.command(
    cls=Command,
    examples=(
        "wiper rules",
        "wiper rules WIPER-B01",
    ),
)
@click.argument("rule", required=False, metavar="[ID]", shell_complete=names_of(completion.rules))
def rules(rule: str | None) -> None:
    """List the rules, or explain one."""
    from wiper_cli import rules as table

    if rule is None:
        for name, entry in {
            **table.RULES,
            **{f"{key}-*": entry for key, entry in table.FAMILIES.items()},
        }.items():
            click.echo(f"{name:<14} {entry.severity.word:<9} {entry.title}")
        return
    try:
        entry = table.rule(rule.upper())
    except KeyError:
        hint = nearest(rule.upper(), [*table.RULES, *table.FAMILIES])
        raise Problem(f"There is no rule {rule!r}{hint}.") from None
    click.echo(f"{entry.id}: {entry.title} (usually {entry.severity.word})\n")
    click.echo(entry.help().replace("**", ""))
