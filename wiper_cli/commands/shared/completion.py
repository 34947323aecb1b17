"""What a shell may complete behind an option: names that are read when it asks."""

from collections.abc import Callable, Iterable

import click

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def names_of(read: Callable[[], Iterable[str]], many: bool = False) -> Complete:
    """Completes one of the names that ``read`` gives; ``many``: of several with commas between, the last."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        before, comma, last = begun.rpartition(",") if many else ("", "", begun)
        return [before + comma + name for name in read() if name.startswith(last)]

    return complete


def architectures() -> list[str]:
    """What ``--arch`` takes, plain and behind the name of its library."""
    from formats.safetensors.names import known

    return [name for library, names in known().items() for one in names for name in (one, f"{library}/{one}")]


def rules() -> list[str]:
    """The ids of all rules."""
    from wiper_cli import rules as table

    return [*table.RULES]


def triggers() -> list[str]:
    """The names of all families."""
    from triggers import names

    return [*names()]
