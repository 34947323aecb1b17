"""The settings file: ``--config FILE``, else ``./wiper.toml``, else ``[tool.wiper]`` of ``./pyproject.toml``.

Who names a file stands for it. One that is merely found may have come with the model, whose author is the attacker: it
may ask for more than the defaults do, never for less, and what it says is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from wiper_cli.audit.requests import Examination, PurifyRequest, VerifyRequest
from wiper_cli.nearest import nearest
from wiper_cli.reports import outputs
from wiper_cli.reports.plain import plain
from wiper_cli.scratch import read_table
from wiper_cli.verdict import Problem, Severity

#: What a report may end in that a found file asks for: nothing that a shell, an editor or an interpreter runs.
SUFFIXES = (".html", ".json", ".md", ".sarif", ".txt", ".xml")
#: Under this key of ``click.Context.meta`` stands the name of a file that was merely found, and its keys by parameter.
_FOUND: Final = "wiper_cli.found"

_COMMANDS = ("scan", "purify", "verify", "inspect")


def load(context: click.Context, path: Path | None) -> None:
    """Reads the settings file into click's default map.

    Top-level keys hold for every command, a table named for a command for that one. Unknown keys are an error
    that shows the nearest name.
    """
    use_plugins(context, plugins_in(path, context.command.name))
    table, where = _table(path)
    command = context.command
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    names = {
        (one.opts[-1] if one.opts else "").lstrip("-").replace("-", "_"): one.name or "" for one in options
    }
    by_name = {one.name or "": one for one in options}
    paths = {one.name for one in options if isinstance(one.type, click.Path) and not one.multiple}
    defaults: dict[str, Any] = {}
    own = table.get(command.name or "", {})
    if not isinstance(own, dict):
        raise Problem(f"{where}: [{command.name}] must be a table.")
    for key, value in {**table, **own}.items():
        name = key.replace("-", "_")
        if key in _COMMANDS or name == "plugin":
            continue
        if name not in names:
            if key in own or not _known_elsewhere(context, name):
                spelled = [known.replace("_", "-") for known in (*names, *_COMMANDS)]
                raise Problem(f"{where}: unknown key {key!r}{nearest(name.replace('_', '-'), spelled)}.")
            continue
        if names[name] in paths and not isinstance(value, str):
            raise Problem(f"{where}: {key} must be a path in quotes.")
        if not fits(by_name[names[name]], value):
            raise Problem(f"{where}: {key} cannot be {plain(repr(value), 60)}.")
        if path is None:
            _only_tighter(where, name, value)
        defaults[names[name]] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    if path is None:
        context.meta[_FOUND] = where, {names[name]: name.replace("_", "-") for name in names}


def fits(option: click.Parameter, value: Any) -> bool:
    """Whether a value of a TOML file is of a sort that the option's own type can judge: text, a number, or a list of
    them where it takes several; true and false for a flag. No number is cut to a whole one."""
    types = click.types
    if isinstance(value, list):
        one = isinstance(option.type, (types.IntParamType, types.FloatParamType, types.StringParamType))
        return (option.multiple or not one) and all(map(_plain_value, value))
    if isinstance(value, bool):
        return bool(getattr(option, "is_flag", False))
    if isinstance(option.type, types.IntParamType) and isinstance(value, float):
        return value.is_integer()
    return _plain_value(value)


def _plain_value(value: Any) -> bool:
    whole = type(value) is int and abs(value) < 1 << 63  # larger ones are no floats
    return whole or type(value) is float or (type(value) is str and "\0" not in value)


def tell(context: click.Context) -> None:
    """One line on stderr with what holds because a file was found."""
    where, keys = context.meta.get(_FOUND, ("", {}))
    pairs = [
        f"{keys[name]} = {value!r}"
        for name, value in (context.default_map or {}).items()
        if name in keys and context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP
    ]
    if pairs:
        click.echo(plain(f"wiper: {where} was found in this folder and sets {', '.join(pairs)}."), err=True)


def use_plugins(context: click.Context, names: Iterable[str]) -> None:
    """Plug-ins join the tables; what cannot join is one line on stderr."""
    if not names or context.resilient_parsing:
        return
    from wiper_cli.tables.plugins import activate

    commands = getattr(context.find_root().command, "commands", {})
    flags = {flag for command in commands.values() for parameter in command.params for flag in parameter.opts}
    for sentence in activate(names, flags):
        click.echo(f"wiper: {plain(sentence)}", err=True)


def plugins_in(path: Path | None, command: str | None) -> list[str]:
    """The plug-ins that the settings file names for ``command``; only a file that is given may name any."""
    table, where = _table(path)
    own = table.get(command or "", {})
    named = {**table, **(own if isinstance(own, dict) else {})}.get("plugin", [])
    if named and path is None:
        raise _too_much(where, "plugin")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Problem(f"{where}: plugin must be a name or a list of names.")
    return names


def _only_tighter(where: str, name: str, value: Any) -> None:
    if name not in _TIGHTER or not _TIGHTER[name](value):
        raise _too_much(where, name)


def _too_much(where: str, name: str) -> Problem:
    name = name.replace("_", "-")
    return Problem(
        f"{where} was merely found in this folder, and its {name} could run a program, loosen the examination, or read "
        f"or write elsewhere; give --{name} itself, or this file with --config."
    )


def _number(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and holds(value)


def _within(value: Any) -> bool:
    """A path that stays in the working directory, through whatever links."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return Path(value).resolve().is_relative_to(Path.cwd())
    except (OSError, RuntimeError):  # links without end
        return False


def _new_reports(value: Any) -> bool:
    """Reports on standard output, or in new files in the working directory that nothing runs."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return False
    places = [output.path for output in outputs(value) if output.path]
    return all(
        _within(str(place)) and place.suffix in SUFFIXES and not place.exists()
        and not place.is_symlink()  # to a name that is another
        and not any(part.startswith(".") for part in place.resolve().relative_to(Path.cwd()).parts)
        for place in places
    )  # fmt: skip


#: Key → whether a file that is merely found may set it so. Everything else it may not.
_TIGHTER: Mapping[str, Callable[[Any], bool]] = {
    "arch": lambda value: isinstance(value, str) and ".py:" not in value,
    "clean": _within,
    "detectors": lambda value: value == "all",
    "device": lambda value: value == "cpu",
    "exit_zero": lambda value: value is False,
    "fail_on": lambda value: value in [one.word for one in Severity if one <= Severity.HIGH],
    "format": _new_reports,
    "isolation": lambda value: value in ("auto", "require"),
    "max_accuracy_drop": _number(lambda value: value <= 100 * PurifyRequest.max_accuracy_drop),
    "max_asr": _number(lambda value: value <= 100 * VerifyRequest.max_asr),
    "max_images": _number(lambda value: value >= Examination.max_images),
    "no_cache": lambda value: value is True,
    "quiet": lambda value: isinstance(value, bool),
    "timeout": lambda value: True,
    "verbose": lambda value: isinstance(value, bool),
}


def _known_elsewhere(context: click.Context, name: str) -> bool:
    """Whether another command has this option, so that a top-level key may be meant for it."""
    root = context.find_root().command
    if not isinstance(root, click.Group):
        return False
    return any(
        parameter.name == name or f"--{name.replace('_', '-')}" in parameter.opts
        for other in root.commands.values()
        for parameter in other.get_params(context)
    )


def _table(path: Path | None) -> tuple[dict[str, Any], str]:
    """The settings and the name of their file; empty where there is none."""
    for place in [path] if path else [Path("wiper.toml"), Path("pyproject.toml")]:
        if path is None and not place.is_file():
            continue
        table: Any = read_table(place)
        for key in ("tool", "wiper") if place.name == "pyproject.toml" else ():
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and table:
            return table, str(place)
    return {}, ""
