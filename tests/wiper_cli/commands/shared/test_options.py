from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from wiper_cli.commands.shared.options import Settings, option, shared_options
from wiper_cli.verdict import ExitCode, Problem


@pytest.fixture
def probe(monkeypatch, tmp_path):
    """A command with the shared options and one of its own that prints what it was given."""
    monkeypatch.chdir(tmp_path)
    for name in ("WIPER_SEED", "WIPER_CLEAN"):
        monkeypatch.delenv(name, raising=False)

    @click.group()
    def cli():
        pass

    @cli.command()
    @option("--level", type=int, default=1)
    @shared_options
    @click.pass_context
    def scan(context, **_):
        settings = Settings.of(context)
        shown = {
            name: [str(getattr(settings, name)), settings.origins[name]] for name in ("seed", "clean", "mean")
        }
        click.echo(json.dumps({**shown, "level": context.params["level"], "size": settings.input_size}))

    @cli.command()
    @option("--method")
    @shared_options
    def purify(**_):
        pass

    def run(*arguments, **environment):
        result = CliRunner().invoke(cli, ["scan", *arguments], env=environment)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_flags_beat_environment_beats_file_beats_defaults(probe):
    seed = lambda **kw: json.loads(probe(*kw.pop("args", ()), **kw).stdout)["seed"]  # noqa: E731
    assert seed() == ["0", "default"]
    Path("pyproject.toml").write_text("[tool.wiper]\nseed = 1\n")
    assert seed() == ["1", "file"]
    Path("wiper.toml").write_text("seed = 2\n")
    assert seed() == ["2", "file"]
    Path("wiper.toml").write_text("seed = 2\n[scan]\nseed = 3\n")
    assert (seed(), seed(WIPER_SEED="4")) == (["3", "file"], ["4", "environment"])
    assert seed(WIPER_SEED="4", args=["--seed", "5"]) == ["5", "command line"]


def test_lists_and_sizes_are_read_from_file_and_flag(probe):
    Path("wiper.toml").write_text("mean = [0.5, 0.25]\ninput-size = [32, 24]\n")
    assert json.loads(probe().stdout)["mean"] == ["(0.5, 0.25)", "file"]
    assert json.loads(probe().stdout)["size"] == [32, 24]
    assert json.loads(probe("--mean", "0.1,0.2,0.3", "--input-size", "28").stdout)["size"] == [28, 28]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sead = 1", "unknown key 'sead'; the nearest is 'seed'"),
        ("[scan]\nmethod = 'x'", "unknown key 'method'"),
        ("seed = = 1", "not valid TOML"),
        ("scan = 3", r"\[scan\] must be a table"),
    ],
)
def test_a_wrong_file_is_one_sentence(probe, text, sentence):
    Path("wiper.toml").write_text(text)
    with pytest.raises(Problem, match=sentence):
        probe()


def test_a_key_of_another_command_may_stand_at_the_top(probe):
    Path("wiper.toml").write_text("method = 'x'\n")
    assert probe().exit_code == ExitCode.OK


def test_a_named_file_must_exist(probe):
    with pytest.raises(Problem, match="cannot be read"):
        probe("--config", "missing.toml")


@pytest.mark.parametrize(
    "arguments", [["--mean", "red"], ["--input-size", "1x2x3"], ["--input-size", "0"], ["--seed", "x"]]
)
def test_wrong_values_are_wrong_usage(probe, arguments):
    assert probe(*arguments).exit_code == ExitCode.USAGE


def test_settings_are_shown_with_their_origin(probe):
    shown = probe("--seed", "7", "--show-settings").stdout
    assert "seed = 7  (command line)" in shown
    assert "max_images = 5000  (default)" in shown


def test_a_found_file_may_not_name_a_program(probe):
    Path("wiper.toml").write_text("arch = 'net.py:make'\n")
    with pytest.raises(Problem, match="may not name a program"):
        probe()
    assert probe("--config", "wiper.toml").exit_code == ExitCode.OK
    Path("wiper.toml").write_text("arch = 'resnet18'\n")
    assert probe().exit_code == ExitCode.OK
