"""Help in sections: the command's own options, then the shared ones by what they are about, then examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

#: Heading → options by name. Whatever stands in none is the command's own.
SECTIONS: Mapping[str, Sequence[str]] = {
    "Model and images": ("clean", "arch", "logits", "classes", "max_images"),
    "How images are prepared, unless that can be found out": (
        "mean", "std", "input_size", "resize", "channel_order", "preprocessing",
    ),
    "Run": ("device", "seed", "timeout", "isolation", "config", "show_settings"),
    "Report": ("output_formats", "fail_on", "exit_zero", "quiet", "verbose", "help"),
}  # fmt: skip
_SHARED = frozenset(name for names in SECTIONS.values() for name in names)


class Option(click.Option):
    """An option whose help leaves out the range: a value outside it is told what the range is."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class _WithExamples(click.Command):
    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **details: Any) -> None:
        super().__init__(*arguments, **details)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Command(_WithExamples):
    """A command. ``examples``: calls of it, which the tests parse; ``own``: heading of its own options."""

    def __init__(self, *arguments: Any, own: str = "Options", **details: Any) -> None:
        super().__init__(*arguments, **details)
        self.own = own

    def shown(self, ctx: click.Context) -> list[click.Option]:
        """The options that the help tells of."""
        return [one for one in self.get_params(ctx) if isinstance(one, click.Option)]

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Heading → options and what the help says of them, the command's own first."""
        told = [(one, one.get_help_record(ctx)) for one in self.shown(ctx)]
        asking = self.get_help_option(ctx)
        records = {"help" if one is asking else str(one.name): record for one, record in told if record}
        sections = SECTIONS if "fail_on" in records else {}
        own = [record for name, record in records.items() if not sections or name not in _SHARED]
        parts = {self.own: own}
        for title, names in sections.items():
            parts[title] = [records[name] for name in names if name in records]
        return {title: rows for title, rows in parts.items() if rows}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, rows in self.sections(ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Group(_WithExamples, click.Group):
    """A command of commands, told in the order in which they were given."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of each, whole; click's own is cut to a line."""
        shown = [(name, one) for name, one in self.commands.items() if not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=200)) for name, one in shown])
