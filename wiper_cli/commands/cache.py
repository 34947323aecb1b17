"""``wiper cache show|clear``: what earlier scans left for later ones."""

import click

from wiper_cli.commands.shared.cache import Cache, place
from wiper_cli.commands.shared.help import Group
from wiper_cli.reports.plain import plain, size


@click.group(cls=Group, examples=("wiper cache show", "wiper cache clear"))
def cache() -> None:
    """Show or remove what earlier scans found.

    A scan of the same bytes with the same images and settings takes its result from there, and says so; one that was
    broken off goes on where it ended. 'wiper scan --no-cache' does neither.
    """


@cache.command()
def show() -> None:
    """List the scans that are kept, the newest first."""
    kept = _cache()
    click.echo(f"{plain(kept.folder or 'There is no place for a cache.')}")
    for path, entry in kept.entries():
        state = entry.answer.verdict if entry.answer.complete else "broken off"
        made, model, large = plain(entry.made, 40), plain(entry.model, 200), size(path.stat().st_size)
        click.echo(f"  {entry.key[:12]}  {made}  {large:>9}  {state:<11}  {model}")


@cache.command()
def clear() -> None:
    """Remove all of them."""
    click.echo(f"{_cache().clear()} removed.")


def _cache() -> Cache:
    return Cache(place(), lambda sentence: click.echo(f"wiper: {plain(sentence)}", err=True))
