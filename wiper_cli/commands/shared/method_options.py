"""The options of the purifiers, derived from the fields of their settings; a default stands there alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from wiper_cli.commands.shared.options import Number, option
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem

F = TypeVar("F", bound=Callable[..., Any])

_PREFIX = "method_"


def method_options(command: F) -> F:
    """Adds ``--preset`` and one option for every field that any method has."""
    for name in sorted(_fields(), reverse=True):
        command = _option(name)(command)
    presets = sorted({preset for method in METHODS.values() for preset in method.presets})
    return option(
        "--preset",
        type=click.Choice(presets),
        help="Named settings of a method; single options override them.",
    )(command)


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


def _option(name: str) -> Callable[[F], F]:
    users = _fields()[name]
    method, field = users[0]
    hint = get_type_hints(METHODS[method])[name]
    flag = "--" + name.replace("_", "-")
    details: dict[str, Any] = {"default": None, "show_default": False, "metavar": "N"}
    if hint is bool:
        flag += "/--no-" + name.replace("_", "-")
        details.pop("metavar")
    elif get_origin(hint) is Literal:
        details.update(type=click.Choice(list(get_args(hint))), metavar=None)
    else:
        # The loosest range of all users; the method itself has the last word.
        low = min((f.metadata["low"] for _, f in users if f.metadata.get("low") is not None), default=None)
        highs = [f.metadata["high"] for _, f in users if f.metadata.get("high") is not None]
        high = max(highs) if len(highs) == len(users) else None
        details["type"] = click.IntRange(low, high) if hint is int else Number(low, high)
    defaults = "; ".join(f"{user}: {_shown(f.default)}" for user, f in users)
    return option(flag, _PREFIX + name, help=f"{field.metadata['help']} [{defaults}]", **details)


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value}"
