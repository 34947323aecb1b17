"""Children import our packages and what is installed, never what lies in their working directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wiper_cli.worker import launcher
from wiper_cli.worker.launcher import ROOT, command, environment, exported, safe_path

ORIGINS = (
    "import importlib.util, json, sys\n"
    "names = ('formats', 'triggers', 'wiper_cli', 'torch', 'numpy')\n"
    "print(json.dumps([importlib.util.find_spec(name).origin for name in names]))\n"
)
NESTED = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {ORIGINS!r}], check=True)"


@pytest.mark.parametrize("path", ["", ":", ".", "..:.:", "/nowhere:"])
@pytest.mark.parametrize("code", [ORIGINS, NESTED], ids=["child", "grandchild"])
def test_nothing_comes_from_the_working_directory(hostile, monkeypatch, code, path):
    monkeypatch.setenv("PYTHONPATH", path.replace(":", os.pathsep))
    done = subprocess.run(command("-c", code), env=environment(), capture_output=True, text=True, check=True)
    origins = json.loads(done.stdout)
    assert origins[:3] == [str(ROOT / name / "__init__.py") for name in ("formats", "triggers", "wiper_cli")]
    assert not [origin for origin in origins if Path(origin).is_relative_to(Path.cwd())]
    assert hostile() == []


@pytest.mark.parametrize(
    ("root", "sites", "separator", "listed", "expected"),
    [
        ("/our root", [], ":", "/a:lib::/our root:/b", "/our root:/a:/b"),
        ("/our root", [], ":", "", "/our root"),
        ("/our root", [], ";", "/a:b;lib", "/our root;/a:b"),
        ("/site-packages", ["/site-packages"], ":", "/a::", "/a"),
        ("/our:root", [], ":", "/a", "/a"),  # its second half would be a relative entry
    ],
)
def test_what_stands_on_a_child_s_pythonpath(monkeypatch, root, sites, separator, listed, expected):
    monkeypatch.setattr(launcher, "ROOT", Path(root))
    monkeypatch.setattr(launcher.site, "getsitepackages", lambda: sites)
    monkeypatch.setattr(os, "pathsep", separator)
    monkeypatch.setenv("PYTHONPATH", listed)
    found = environment(EXTRA="1")
    assert (found["PYTHONPATH"], found["PYTHONSAFEPATH"], found["EXTRA"]) == (expected, "1", "1")
    assert set(os.environ) <= set(found)


def test_a_pythonpath_that_is_ignored_here_is_ignored_there():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom wiper_cli.worker.launcher import *\n"
    call = [sys.executable, "-E", "-c", code + "print(environment()['PYTHONPATH'])"]
    done = subprocess.run(
        call, env={**os.environ, "PYTHONPATH": "/a"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(ROOT)


def test_what_is_exported_is_taken_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/a")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    within = environment()
    with exported():
        assert dict(os.environ) == within == environment()
    assert dict(os.environ) == before


def test_the_path_without_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    monkeypatch.chdir(tmp_path)
    here, lib = str(tmp_path), str(tmp_path / "lib")
    monkeypatch.setattr(launcher.sys, "flags", type("Flags", (), {"safe_path": 0, "ignore_environment": 0}))
    for listed, path, expected in [
        ("", [here, "/x", here], ["/x", here]),  # where a site folder is the working directory
        ("", ["", "/x", ""], ["/x"]),
        (f"lib{os.pathsep}", [here, lib, here, "/x"], ["/x"]),
        (f"{lib}{os.pathsep}lib", ["/bin", lib, "/x"], ["/bin", lib, "/x"]),
        (here, [here, here, "/x"], [here, here, "/x"]),
    ]:
        monkeypatch.setenv("PYTHONPATH", listed)
        monkeypatch.setattr(sys, "path", path)
        assert safe_path() == expected
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    monkeypatch.setattr(sys, "path", [here, here, "/x"])
    assert safe_path() == [here, here, "/x"]


@pytest.mark.skipif(sys.platform == "win32", reason="such a folder cannot be removed")
def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", ["", "lib", "/x"])
    assert safe_path() == ["/x"]


def test_no_other_file_starts_an_interpreter():
    ours = [path for name in ("formats", "triggers", "wiper_cli") for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in ours if "sys.executable" in path.read_text("utf-8")] == ["launcher.py"]
