"""The options of the purifiers, derived from the fields of their settings; a default stands there alone."""

import dataclasses
import textwrap
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from wiper_cli.commands.shared.help import Command, Option
from wiper_cli.commands.shared.options import Number, with_variable
from wiper_cli.commands.shared.settings_file import plugins_in, use_plugins
from wiper_cli.nearest import nearest
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.options import NEEDS
from wiper_cli.verdict import Problem

_PREFIX = "method_"
_ASKED = f"{__name__}.asked"


class MethodCommand(Command):
    """A command with ``--preset`` and one option for every field that any method has, plug-ins' included: they are
    made when the command runs. Its help tells those of a method where ``--method`` names it, and no other then."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        config = click.Option(["--config"], envvar="WIPER_CONFIG", type=click.Path(path_type=Path))
        early = click.Command("early", params=[config, click.Option(["--method"])], add_help_option=False)
        lenient = early.make_context(
            "early", [*args], ignore_unknown_options=True, allow_extra_args=True,
            resilient_parsing=ctx.resilient_parsing,
        )  # fmt: skip
        use_plugins(ctx, plugins_in(lenient.params["config"], self.name))
        ctx.meta[_ASKED] = lenient.params["method"]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        found, own = super().get_params(ctx), len(self.params)
        return [*found[:own], *_options(tuple(METHODS)), *found[own:]]

    def shown(self, ctx: click.Context) -> list[click.Option]:
        return [one for one in super().shown(ctx) if one not in _options(tuple(METHODS))]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        asked = ctx.meta.get(_ASKED)
        if asked is None:
            super().format_help(ctx, formatter)
            formatter.write_paragraph()
            told = f"Methods ('--method NAME --help' tells their settings): {', '.join(METHODS)}."
            formatter.write(textwrap.fill(told, formatter.width, break_on_hyphens=False) + "\n")
            return
        kind = METHODS[MethodName().convert(asked, None, ctx)]
        formatter.write_usage(ctx.command_path, f"MODEL --clean DIR -o OUT --method {kind.name} [OPTIONS]")
        formatter.write_paragraph()
        with formatter.indentation():
            needs = ", ".join(word for key, word in NEEDS.items() if key in kind().needs)
            formatter.write_text(f"{kind.title}. Needs: {needs}.")
        own = [_option(one.name, [(kind.name, one)]) for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
        presets = [_preset(kind.presets)] if kind.presets else []
        with formatter.section("Settings"):
            formatter.write_dl([row for one in [*presets, *own] if (row := one.get_help_record(ctx))])
        for preset, values in kind.presets.items():
            given = ", ".join(f"{name.replace('_', '-')} {_shown(value)}" for name, value in values.items())
            formatter.write_paragraph()
            formatter.write_text(f"Preset {preset}: {given or 'the defaults'}.")
        formatter.write_paragraph()
        formatter.write_text(f"All else: {ctx.command_path} --help")


class MethodName(click.Choice):  # type: ignore[type-arg]
    """One of the methods as they are when the command runs."""

    choices = property(lambda self: tuple(METHODS), lambda self, value: None)

    def __init__(self) -> None:
        super().__init__(())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value not in METHODS:
            near = nearest(value, METHODS)
            self.fail(f"there is no method {value!r}{near}; there are {', '.join(METHODS)}.", param, ctx)
        return super().convert(value, param, ctx)


class Triggered(Option):
    """An option whose help names the methods that need images with the trigger, in place of ``{methods}``."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        methods = ", ".join(name for name, kind in METHODS.items() if "triggered" in kind().needs)
        found = super().get_help_record(ctx)
        return found and (found[0], found[1].format(methods=methods))


@lru_cache(maxsize=2)
def _options(methods: tuple[str, ...]) -> tuple[click.Option, ...]:
    """The same objects for the same table: click tells parameters apart by identity."""
    users = _fields()
    preset = _preset(sorted({preset for method in METHODS.values() for preset in method.presets}))
    return preset, *(_option(name, users[name]) for name in sorted(users))


def _preset(names: Collection[str]) -> click.Option:
    return _made(
        "--preset", type=click.Choice([*names]), help="Named settings; single options override them."
    )


def _made(*names: str, **details: Any) -> click.Option:
    return Option(
        names, **{name: value for name, value in with_variable(names, details).items() if name != "cls"}
    )


def method_settings(context: click.Context, method: str) -> dict[str, Any]:
    """The settings of ``method`` as asked for: preset, then single options.

    Raises Problem for what the method lacks and for values outside its range.
    """
    kind = METHODS[method]
    chosen: dict[str, Any] = {}
    preset = context.params.get("preset")
    if preset is not None:
        if preset not in kind.presets:
            known = ", ".join(kind.presets) or "none"
            raise Problem(f"The method {method} has no preset {preset!r} (it has: {known}).")
        chosen.update(kind.presets[preset])
    own = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in _fields():
        value = context.params.get(_PREFIX + name)
        if value is None:
            continue
        if name not in own:
            raise Problem(f"--{name.replace('_', '-')} is no option of the method {method}.")
        chosen[name] = value
    kind(**chosen)
    return chosen


def _fields() -> dict[str, list[tuple[str, dataclasses.Field[Any]]]]:
    """Field name → the methods that have it, with their fields."""
    found: dict[str, list[tuple[str, dataclasses.Field[Any]]]] = {}
    for method, kind in METHODS.items():
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            found.setdefault(field.name, []).append((method, field))
    return found


def _option(name: str, users: list[tuple[str, dataclasses.Field[Any]]]) -> click.Option:
    method, field = users[0]
    hint = get_type_hints(METHODS[method])[name]
    flag = "--" + name.replace("_", "-")
    details: dict[str, Any] = {"default": None, "show_default": False, "metavar": "N"}
    if hint is bool:
        flag += "/--no-" + name.replace("_", "-")
        details.pop("metavar")
    elif choices := field.metadata["choices"] or get_args(hint):
        details.update(type=click.Choice(list(choices)), metavar=None)
    else:
        # The loosest range of all users; the method itself has the last word.
        low = min((f.metadata["low"] for _, f in users if f.metadata.get("low") is not None), default=None)
        highs = [f.metadata["high"] for _, f in users if f.metadata.get("high") is not None]
        high = max(highs) if len(highs) == len(users) else None
        details["type"] = click.IntRange(low, high) if hint is int else Number(low, high)
    defaults = "; ".join(f"{user if len(users) > 1 else 'default'}: {_shown(f.default)}" for user, f in users)
    return _made(flag, _PREFIX + name, help=f"{field.metadata['help']} [{defaults}]", **details)


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value}"
