"""``wiper triggers [NAME]``: the trigger families that verification can stamp."""

import dataclasses
from pathlib import Path

import click

from wiper_cli.commands.shared import completion
from wiper_cli.commands.shared.completion import names_of
from wiper_cli.commands.shared.help import Command
from wiper_cli.nearest import nearest
from wiper_cli.verdict import Problem


@click.command(
    cls=Command,
    examples=(
        "wiper triggers",
        "wiper triggers badnet --preview badnet.png",
    ),
)
@click.argument("name", required=False, shell_complete=names_of(completion.triggers))
@click.option(
    "--preview", type=click.Path(path_type=Path), metavar="FILE", help="Write a PNG of the trigger."
)
def triggers(name: str | None, preview: Path | None) -> None:
    """List the built-in trigger families, or describe one."""
    from triggers import find, names

    if name is None:
        if preview is not None:
            raise Problem("--preview needs the name of a family.")
        for key in names():
            click.echo(f"{key:<17} {find(key).title}")
        return
    if name not in names():
        raise Problem(f"There is no trigger family {name!r}{nearest(name, names())}.")
    family = find(name)
    click.echo(f"{name}: {family.title}\nsource: {family.source}\nATLAS: {', '.join(family.atlas)}")
    click.echo(f"planted with: {family.poisoning}")
    click.echo(f"fitted to: {family.needs}\nparameters:")
    for field in dataclasses.fields(family):  # type: ignore[arg-type]
        if field.metadata.get("fitted"):
            continue
        default = field.default if field.default is not dataclasses.MISSING else "…"
        click.echo(f"  {field.name} = {default!r}  {field.metadata.get('help', '')}".rstrip())
    if preview is not None:
        from wiper_cli.images.thumbnails import preview as picture
        from wiper_cli.scratch import write_whole

        if name == "known":
            raise Problem("A known trigger is a picture of your own; there is nothing to preview.")
        if family.needs != "nothing":
            raise Problem(f"{name} has no picture before it is fitted; nothing was written.")
        write_whole(preview, picture(family()))
        click.echo(f"wrote {preview}", err=True)
