"""``--fleet FILE``: models and how each is examined, as TOML or CSV; paths are relative to the file.

    clean = "images"            # holds for every model that does not say otherwise

    [[model]]
    model = "resnet.onnx"       # a file, a folder of models, or an address
    effort = "quick"
    fail-on = "medium"

A CSV file has the same names as its first line. Values are those of the options; whoever names the file stands for it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from wiper_cli.commands.fleet.batch import Item
from wiper_cli.commands.shared.options import Settings
from wiper_cli.commands.shared.remote import Address, place_of
from wiper_cli.commands.shared.run import require_clean
from wiper_cli.commands.shared.settings_file import fits
from wiper_cli.nearest import nearest
from wiper_cli.reports.plain import plain
from wiper_cli.scratch import read_table, read_whole
from wiper_cli.verdict import Problem

#: Largest file in bytes, most lines, and lines that are told of those that are wrong.
MOST, MOST_LINES, _TOLD = 32 << 20, 200_000, 5
#: What a line may say, beside the model.
KEYS = (
    "clean", "arch", "logits", "mean", "std", "input-size", "resize", "channel-order", "preprocessing", "classes",
    "max-images", "seed", "timeout", "fail-on", "detectors", "effort", "budget", "canaries",
)  # fmt: skip
_TABLE = re.compile(r"^[ \t]*\[\[[ \t]*model[ \t]*\]\]", re.MULTILINE)
_SETTINGS = frozenset(field.name for field in fields(Settings))


def lines(path: Path, context: click.Context, settings: Settings, asked: Mapping[str, Any]) -> list[Item]:
    """The lines of the file over what the command line says. ``context``: of the command whose options are meant.

    Raises :class:`Problem`, naming the first lines that are wrong.
    """
    options = {key: one for one in context.command.params for key in KEYS if f"--{key}" in one.opts}
    found: list[Item] = []
    wrong: list[str] = []
    for number, entry in _entries(path):
        try:
            found.append(_line(path.parent, entry, options, context, settings, asked))
        except (Problem, click.ClickException) as problem:
            said = problem.format_message() if isinstance(problem, click.ClickException) else str(problem)
            wrong.append(f"line {number}: {plain(said, 300)}")
    if wrong:
        more = f" ({len(wrong) - _TOLD} more lines are wrong)" if len(wrong) > _TOLD else ""
        raise Problem(f"{path}, {'; '.join(wrong[:_TOLD])}{more}")
    if not found:
        raise Problem(f"{path} names no model: [[model]] with model = … in TOML, a column model in CSV.")
    return found


def _line(
    folder: Path,
    entry: Mapping[str, Any],
    options: Mapping[str, click.Parameter],
    context: click.Context,
    settings: Settings,
    asked: Mapping[str, Any],
) -> Item:
    values: dict[str, Any] = {}
    for key, given in entry.items():
        if key == "model":
            continue
        if key not in options:
            raise Problem(f"{plain(key, 60)!r} is no key{nearest(key, [*options, 'model'])}.")
        option = options[key]
        if isinstance(option.type, click.Path) and (not isinstance(given, str) or "://" in given):
            raise Problem(f"{key} must be a path on this machine, in quotes.")
        if not fits(option, given):
            raise Problem(f"{key} cannot be {given!r}.")
        value = option.type_cast_value(context, given)
        if key == "arch" and ".py:" in value:
            value = str(folder / value)
        values[option.name or ""] = folder / value if isinstance(option.type, click.Path) else value
    model = entry.get("model")
    if not isinstance(model, str) or not model or "\0" in model:
        raise Problem("it names no model.")
    place = place_of(model)
    own = replace(settings, **{name: value for name, value in values.items() if name in _SETTINGS})
    require_clean(own)
    rest = {name: value for name, value in values.items() if name not in _SETTINGS}
    return Item(place if isinstance(place, Address) else folder / place, own, {**asked, **rest})


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of every line and what it says, with what holds for all."""
    if path.suffix.lower() == ".csv":
        yield from _rows(path)
        return
    table = read_table(path, MOST)
    models = table.pop("model", [])
    if not isinstance(models, list) or not all(isinstance(one, dict) for one in models):
        raise Problem(f"{path}: models stand below [[model]].")
    text = read_whole(path, MOST).decode()
    starts = [text.count("\n", 0, found.start()) + 1 for found in _TABLE.finditer(text)]
    if len(starts) != len(models):  # written in another way
        starts = [*range(1, len(models) + 1)]
    for number, one in zip(starts[:MOST_LINES], models, strict=False):
        yield number, {**table, **one}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = read_whole(path, MOST).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = reader.fieldnames or []
        if len({*names}) != len(names):
            raise Problem(f"{path}, line 1: a column stands twice.")
        for row in reader:
            if reader.line_num > MOST_LINES:
                raise Problem(f"{path} has more than {MOST_LINES:,} lines.")
            if None in row or None in row.values():
                raise Problem(
                    f"{path}, line {reader.line_num}: it has not {len(names)} values, as line 1 has."
                )
            yield reader.line_num, {key: value for key, value in row.items() if value.strip()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise Problem(f"{path} is not valid CSV: {error}.") from error
