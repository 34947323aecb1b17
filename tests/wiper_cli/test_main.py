"""What the command refuses before it does anything, and what it never imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def wiper(*arguments, path, cwd=None):
    """In a process of its own, which Python lets import from the working directory."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    call = [sys.executable, "-m", "wiper_cli.main", *arguments]
    done = subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("path", [(ROOT,), ("", ROOT), (ROOT, ".", "")])
def test_nothing_comes_from_the_working_directory(hostile, path):
    code, out, err = wiper("triggers", path=path)
    assert (code, err) == (0, "")
    assert "badnet" in out
    assert hostile() == []


@pytest.mark.parametrize("command", ["--help", "doctor"])
@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("formats", "formats/__init__.py", "VERSION = 1"),
        ("formats", "formats.py", "1 / 0"),
        ("triggers", "triggers.py", "raise SystemExit(0)"),
        ("triggers", "triggers/fire.py", None),
    ],
)
def test_another_s_package_is_one_sentence(tmp_path, command, name, file, content):
    foreign = tmp_path / file
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text(content or "")
    place = foreign if content else foreign.parent  # a folder alone is a package, too
    # Ours is found by a finder, as an editable install has it: after every folder of the path.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.machinery, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        return None if path else importlib.machinery.PathFinder.find_spec(name, [{str(ROOT)!r}])\n"
        "sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Finder)\n"
    )
    code, out, err = wiper(command, path=[tmp_path], cwd=tmp_path.parent)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"wiper: {place} is imported as '{name}' in place of wiper's own package: take it off"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("VERSION = 1", "AttributeError: module 'formats' has no attribute 'FormatError'"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_package_that_was_overwritten_is_one_sentence(tmp_path, content, reason):
    for name in ("wiper_cli", "triggers"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "__init__.py").write_text(content)
    code, out, err = wiper("rules", path=[tmp_path], cwd=tmp_path.parent)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"wiper: {tmp_path / 'formats' / '__init__.py'} is imported as 'formats'")
    assert reason in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
@pytest.mark.parametrize(
    ("arguments", "streams", "code"),
    [
        (["rules"], "2>/dev/full", 0),
        (["rules"], ">&-", 2),
        (["man"], ">&-", 2),
        (["completion", "--help"], ">&-", 2),
        (["rules"], "2>&-", 0),
        (["rules"], "<&- >&- 2>&-", 2),
        (["rules", "--none"], "<&- >&- 2>&-", 2),
        (["inspect", "--static", "none.onnx"], "2>/dev/full", 2),
        (["inspect", "--static", "none.onnx"], ">&-", 2),
        (["inspect", "--static", "none.onnx"], "2>&-", 2),
        (["report", "none.json"], "2>/dev/full", 2),
        (["--none"], "2>/dev/full", 2),
        (["rules"], ">/dev/full", 2),
        (["inspect", "--static", ROOT / "examples/digits/twin.safetensors"], "2>/dev/full", 0),
        (["inspect", "--static", ROOT / "examples/digits/twin.safetensors"], ">&-", 2),
        (["inspect", "--static", ROOT / "examples/digits/twin.safetensors", "-f", "json=x.json"], ">&-", 0),
        (["inspect", "--static", ROOT / "examples/digits/twin.safetensors"], "2>&-", 0),
    ],
)
def test_streams_that_cannot_be_written_lose_no_report_unsaid(arguments, streams, code, tmp_path):
    call = [sys.executable, "-m", "wiper_cli.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh", *call]
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert "nternal failure" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == (">/dev/full" in streams.split() or streams == ">&-")


@pytest.mark.skipif(os.name != "posix", reason="a folder that is used cannot be removed there")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "--static", ROOT / "examples/digits/twin.safetensors", "-f", "json=x.json"],
         "wiper: x.json cannot be written: the working folder was removed.\n"),
        (["convert", ROOT / "examples/digits/twin.safetensors", "-o", "out.safetensors"],
         "wiper: The working folder cannot be used: No such file or directory.\n"),
    ],
)  # fmt: skip
def test_a_working_folder_that_was_removed_is_said(arguments, said, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    call = [sys.executable, "-m", "wiper_cli.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *call]
    done = subprocess.run(shell, cwd=gone, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("command", [[], ["cache"], ["zoo"]])
def test_without_arguments_the_help_is_shown_as_it_is(command):
    asked = wiper(*command, "--help", path=(ROOT,))
    code, out, err = wiper(*command, path=(ROOT,))
    assert (code, out) == (2, "")
    assert err.split() == asked[1].split()
    assert len(err.splitlines()) > 10
