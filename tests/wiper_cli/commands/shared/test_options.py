from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from wiper_cli.commands.shared.options import MODEL, Detectors, Settings, option, shared_options
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
    @option("--detectors", type=Detectors(), default="all")
    @option("--accept-unverified", is_flag=True)
    @option("--max-accuracy-drop", type=float, default=2.0)
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
    seed = lambda *args, **kw: json.loads(probe(*args, **kw).stdout)["seed"]  # noqa: E731
    assert seed() == ["0", "default"]
    Path("pyproject.toml").write_text("[tool.wiper]\nseed = 1\n")
    assert seed("--config", "pyproject.toml") == ["1", "file"]
    Path("wiper.toml").write_text("seed = 2\n")
    given = ["--config", "wiper.toml"]
    assert seed(*given) == ["2", "file"]
    Path("wiper.toml").write_text("seed = 2\n[scan]\nseed = 3\n")
    assert (seed(*given), seed(*given, WIPER_SEED="4")) == (["3", "file"], ["4", "environment"])
    assert seed(WIPER_CONFIG="wiper.toml") == ["3", "file"]
    assert seed(*given, "--seed", "5", WIPER_SEED="4") == ["5", "command line"]


def test_lists_and_sizes_are_read_from_file_and_flag(probe):
    Path("wiper.toml").write_text("mean = [0.5, 0.25]\ninput-size = [32, 24]\n")
    given = ["--config", "wiper.toml"]
    assert json.loads(probe(*given).stdout)["mean"] == ["(0.5, 0.25)", "file"]
    assert json.loads(probe(*given).stdout)["size"] == [32, 24]
    assert json.loads(probe(*given, "--mean", "0.1,0.2,0.3", "--input-size", "28").stdout)["size"] == [28, 28]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sead = 1", "unknown key 'sead'; the nearest is 'seed'"),
        ("[scan]\nmethod = 'x'", "unknown key 'method'"),
        ("seed = = 1", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        (f"seed = {'9' * 5000}", "not valid TOML"),
        ("#" * (1 << 20) + "\n", "1048577 bytes; the limit is 1048576"),
        ("a." * 501 + "a = 1", "more than 500 dots"),
        ("scan = 3", r"\[scan\] must be a table"),
        ("clean = 3", "clean must be a path in quotes"),
        ("timeout = [1]", r"timeout cannot be \[1\]"),
        ("timeout = 1979-05-27", "timeout cannot be"),
        (f"timeout = {'9' * 400}", "more than 64 bits"),
        (f"format = [[0x{'f' * 5000}]]", "more than 64 bits"),
        ("[" + "a." * 499 + "a]\n" + ("b.'c.'." * 160 + "d = 1\n") * 80, "keys have too many parts"),
        ("seed = 1.5", "seed cannot be 1.5"),
        ("seed = true", "seed cannot be True"),
        ("mean = [[1], [2]]", "mean cannot be"),
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
    "arguments",
    [
        ["--mean", "red"], ["--input-size", "1x2x3"], ["--input-size", "0"], ["--seed", "x"],
        ["--seed", "9" * 20], ["--max-images", "9" * 20],
    ],
)  # fmt: skip
def test_wrong_values_are_wrong_usage(probe, arguments):
    assert probe(*arguments).exit_code == ExitCode.USAGE


def test_settings_are_shown_with_their_origin(probe):
    shown = probe("--seed", "7", "--show-settings").stdout
    assert "seed = 7  (command line)" in shown
    assert "max_images = 5000  (default)" in shown


LOOSER = {
    "a program": "arch = 'net.py:make'",
    "a report outside": "format = ['text=../report.txt']",
    "a report far outside": "format = ['text', 'json=/tmp/report.json']",
    "a report through a link": "format = ['json=out/report.json']",
    "a report over a file": "format = ['json=package.json']",
    "a report that a shell runs": "format = ['text=.bashrc']",
    "a report in a hidden folder": "format = ['json=.vscode/settings.json']",
    "a report that an interpreter runs": "format = ['text=setup.py']",
    "no failure": "exit-zero = true",
    "a higher bar": "fail-on = 'critical'",
    "no detector": "[scan]\ndetectors = 'none'",
    "fewer detectors": "detectors = 'max-margin'",
    "no confinement": "isolation = 'off'",
    "a device": "device = 'cuda'",
    "fewer images": "max-images = 100",
    "another preprocessing": "std = [2.0]",
    "a seed": "seed = 7",
    "images elsewhere": "clean = '/'",
    "images through a link": "clean = 'out'",
    "a report through a link to a name that is run": "format = ['text=link.txt']",
    "what only the user decides": "accept-unverified = true",
    "more of the accuracy": "max-accuracy-drop = 50",
}


@pytest.mark.parametrize("text", LOOSER.values(), ids=LOOSER)
def test_a_found_file_may_only_tighten(probe, text, tmp_path_factory):
    Path("out").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    Path("package.json").write_text("{}")
    Path("link.txt").symlink_to("conftest.py")
    Path("wiper.toml").write_text(text)
    with pytest.raises(Problem, match=r"was merely found in this folder, and its .* give --.*--config"):
        probe()
    Path("wiper.toml").unlink()
    Path("pyproject.toml").write_text(f"[tool.wiper]\n{text.replace('[scan]', '[tool.wiper.scan]')}")
    with pytest.raises(Problem, match=r"^pyproject.toml was merely found"):
        probe()


def test_what_a_found_file_changes_is_told(probe):
    Path("images").mkdir()
    tighter = """
        clean = "images"
        format = ["text", "html=report.html"]
        exit-zero = false
        fail-on = "low"
        detectors = "all"
        isolation = "require"
        arch = "resnet18"
        timeout = 60
        max-images = 9000
        quiet = true
        device = "cpu"
    """
    Path("wiper.toml").write_text(tighter)
    found = probe("--fail-on", "medium")
    assert found.exit_code == ExitCode.OK, found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith(
        "wiper: wiper.toml was found in this folder and sets clean = 'images', format = ['text', "
    )
    assert "max-images = 9000" in line
    assert "fail-on" not in line
    assert probe("--config", "wiper.toml").stderr == ""
    Path("wiper.toml").write_text("arch = '\\u001b[2Kx'\n")
    assert "\x1b" not in probe().stderr


@pytest.mark.parametrize("text", LOOSER.values(), ids=LOOSER)
def test_a_file_that_is_given_may_do_all_that_a_user_may(probe, text):
    Path("wiper.toml").write_text(text)
    assert probe("--config", "wiper.toml").exit_code == ExitCode.OK


def test_a_folder_stands_for_the_model_in_it(tmp_path):
    (tmp_path / "model.onnx").touch()
    assert MODEL.convert(str(tmp_path), None, None) == tmp_path / "model.onnx"
    assert MODEL.convert(str(tmp_path / "none"), None, None) == tmp_path / "none"
    (tmp_path / "model.onnx").unlink()
    assert MODEL.convert(str(tmp_path), None, None) == tmp_path
