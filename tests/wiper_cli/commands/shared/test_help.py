"""What --help says: in sections, short, with examples that can be typed."""

import dataclasses
import shlex

import click
import pytest
from click.testing import CliRunner

from wiper_cli.commands.shared.help import SECTIONS
from wiper_cli.main import cli
from wiper_cli.purifiers import METHODS


def every(group, *names):
    """All commands, by the words that call them."""
    yield (*names, group.name), group
    for command in getattr(group, "commands", {}).values():
        yield from every(command, *names, group.name)


COMMANDS = dict(every(cli()))


def helped(*arguments):
    done = CliRunner().invoke(cli(), [*arguments, "--help"], prog_name="wiper")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("group", [(), ("zoo",), ("cache",)])
def test_what_a_command_does_is_said_whole(group):
    text = helped(*group).partition("Commands:")[2]
    assert text.count("\n") > 2
    assert "..." not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["scan", "purify", "verify", "inspect", "rebuild"])
def test_sections(name):
    text = helped(name)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    headings = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[1:] == [*SECTIONS, "Examples"] or name == "purify"
    assert headings.index("Model and images") == 1
    for option in cli().commands[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in text
    assert "[x>=" not in text


def test_purify_fits_into_sixty_lines_and_a_method_tells_its_own():
    text = helped("purify")
    assert len(text.splitlines()) <= 60
    assert "--mask-epochs" not in text
    assert all(method in text for method in METHODS)
    for method, kind in METHODS.items():
        own = helped("purify", "--method", method)
        assert kind.title in " ".join(own.split())
        assert "--clean DIR" in own
        assert "--device" not in own
        words = "".join(own.split())  # a line may end behind a hyphen
        for field in dataclasses.fields(kind):
            assert f"--{field.name.replace('_', '-')}" in own
            default = {"True": "on", "False": "off"}.get(str(field.default), field.default)
            assert f"[default:{default}]" in words
        assert ("--preset" in own) == bool(kind.presets)
        assert all(f"Preset {preset}: " in own for preset in kind.presets)
    assert helped("purify", "--method=ban") == CliRunner().invoke(
        cli(), ["purify", "-h", "--method", "ban"], prog_name="wiper"
    ).output  # fmt: skip


def test_a_method_that_there_is_not():
    done = CliRunner().invoke(cli(), ["purify", "--method", "bn", "--help"])
    assert done.exit_code == 2
    assert "there is no method 'bn'; the nearest is 'ban'; there are unlearn, " in done.output


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_examples_which_parse(names):
    command = COMMANDS[names]
    assert (
        command.examples
        or names in [("wiper", "cache", "show"), ("wiper", "cache", "clear")]
        or names[1] == "zoo"
    )
    for example in command.examples:
        assert f"  {example}\n" in helped(*names[1:])
        words = shlex.split(example.partition(" #")[0].partition(" >")[0])
        if words[0] != "wiper":
            assert words[0] == "eval"
            continue
        assert names == ("wiper",) or tuple(words[: len(names)]) == names
        called = COMMANDS["wiper", words[1]]
        rest = words[2:]
        if isinstance(called, click.Group):
            called = called.commands[rest.pop(0)]
        called.make_context(called.name, rest, parent=cli().make_context("wiper", ["x"]))


def test_commands_are_told_in_the_order_of_their_use():
    text = helped()
    assert text.index("  scan ") < text.index("  purify ") < text.index("  verify ") < text.index("  bench ")
