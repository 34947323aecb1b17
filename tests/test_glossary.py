"""The glossary names what exists, and words that it replaced stay away from the code."""

from __future__ import annotations

import importlib
import io
import re
import tokenize
from pathlib import Path

import click

from wiper_cli.main import cli
from wiper_cli.verdict import Verdict
from wiper_cli.zoo.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
#: Words in no name of a module, class, function or variable, and phrases in no text.
NAMES = set("telling stamping suspicion forgetting rivals beyond descent whom epitaph planting".split())  # noqa: SIM905
PHRASES = re.compile(r"for want of|so-manieth", re.IGNORECASE)


def options(command: click.Command) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return {
        name
        for item in command.get_params(click.Context(command, help_option_names=["-h", "--help"]))
        for name in item.opts
    }.union(*map(options, below))


def python_name(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True


def exists(name: str) -> bool:
    if name.startswith("-"):
        return name in options(cli())
    if name.startswith("wiper "):
        return name.removeprefix("wiper ") in cli().commands
    if "/" in name:
        return (ROOT / name).exists()
    if name.startswith(("formats", "triggers", "wiper_cli")):
        return python_name(name)
    page = (ROOT / "docs/report-format.md").read_text(encoding="utf-8")
    recipe = {f"recipe.{key}" for key in Recipe("data", "arch").as_dict()}
    return name in recipe.union(Verdict, re.findall(r"^\| `(\S+)`", page, re.MULTILINE))


def test_every_name_in_the_glossary_exists():
    names = set(re.findall(r"`([^`]+)`", (ROOT / "docs/glossary.md").read_text(encoding="utf-8")))
    assert len(names) > 30
    assert not {name for name in names if not exists(name)}
    made_up = ("formats.Nothing", "--nothing", "wiper nothing", "docs/nothing.md", "model.nothing")
    assert not any(map(exists, made_up))


def test_replaced_words_do_not_come_back():
    found = []
    for path in (
        path for package in ("formats", "triggers", "wiper_cli") for path in (ROOT / package).rglob("*.py")
    ):
        place, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        names = [(token.start[0], token.string) for token in tokens if token.type == tokenize.NAME]
        for line, name in [(0, path.stem), *names]:
            found += [f"{place}:{line} {name}"] if NAMES & set(re.findall("[a-z]+", name.lower())) else []
        found += [f"{place} {phrase}" for phrase in PHRASES.findall(text)]
    assert not found, "\n".join(sorted(found))
