"""What the installation can do, and what it lacks."""

import json
import stat
import subprocess
from dataclasses import asdict
from importlib.metadata import version

import pytest

from wiper_cli.commands import doctor as module
from wiper_cli.detectors import DETECTORS
from wiper_cli.purifiers import METHODS
from wiper_cli.worker import launcher
from wiper_cli.worker.confinement import Layer


@pytest.fixture
def devices(monkeypatch):
    """Asking torch takes a process of its own; one test does."""
    monkeypatch.setattr(module, "_devices", lambda: "cpu (1 threads)")


def test_a_whole_installation(wiper, devices):
    code, out, err = wiper("doctor")
    assert (code, err) == (0, "")
    assert "MISSING" not in out
    places = [str(launcher.ROOT / name / "__init__.py") for name in ("wiper_cli", "formats", "triggers")]
    assert all(name in out for name in [*DETECTORS, *METHODS, *places, "torch", "cpu (1 threads)"])


@pytest.mark.parametrize(
    ("versions", "exit_code", "name", "state"),
    [
        ({"safetensors": None}, 2, "safetensors", "MISSING"),
        ({"timm": None}, 0, "timm", "not installed"),
        (
            {"onnxruntime": None, "onnxruntime-gpu": "9.8.7"},
            0,
            "onnxruntime",
            "9.8.7",
        ),  # one of two is enough
    ],
)
def test_what_is_missing_fails_where_it_is_needed(
    wiper, devices, monkeypatch, versions, exit_code, name, state
):
    real = module._version
    monkeypatch.setattr(module, "_version", lambda package: versions.get(package, real(package)))
    code, out, _ = wiper("doctor")
    assert code == exit_code
    (line,) = [line for line in out.splitlines() if line.split()[0] == name]
    assert state in line


def test_confinement_is_said_layer_by_layer(monkeypatch):
    layers = [Layer("seccomp", True, "all threads"), Layer("landlock", False, "not in this kernel")]
    told = subprocess.CompletedProcess([], 0, json.dumps([asdict(layer) for layer in layers]))
    monkeypatch.setattr(module, "_python", lambda *_: told)
    assert module._isolation() == "seccomp (all threads); missing: landlock (not in this kernel)"
    monkeypatch.undo()
    assert all(name in module._isolation() for name in ("pdeathsig", "landlock", "seccomp"))


def test_versions():
    assert module._version("pytest") == pytest.__version__
    assert module._version("no-such-distribution-anywhere") is None


def test_a_broken_torch_does_not_take_doctor_down(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'ImportError: libc10.so' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(launcher.sys, "executable", str(python))
    assert module._devices() == "torch cannot be imported: ImportError: libc10.so"
    python.write_text("#!/bin/sh\nexit 1\n")
    assert module._devices() == "torch cannot be imported: no reason given"


def test_what_stands_behind_a_package_that_ends_the_process_is_tried_too(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", tuple((name, True, "") for name in ("click", "rich", "numpy")))
    monkeypatch.setattr(module, "_IMPORTS", {"click": "import os; os._exit(3)", "numpy": "1 / 0"})
    assert module._broken() == {
        "click": "it ends the process",
        "numpy": "ZeroDivisionError: division by zero",
    }


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raise ImportError('libX.so')", "ImportError: libX.so"),
        ("import os; os._exit(3)", "it ends the process"),
    ],
)
def test_what_cannot_be_imported_is_broken(wiper, devices, monkeypatch, does, said):
    monkeypatch.setattr(module, "_PACKAGES", (("click", True, "the command"), ("rich", True, "text")))
    monkeypatch.setattr(module, "_IMPORTS", {"rich": does})
    code, out, _ = wiper("doctor")
    assert code == 2
    assert [line.split() for line in out.splitlines() if line.split()[0] in ("click", "rich")] == [
        ["click", version("click"), "the", "command"],
        ["rich", version("rich"), "BROKEN", *f"cannot be imported: {said}".split()],
    ]


def test_devices_are_torch_s(hostile):
    assert module._devices().startswith("cpu (")
    assert hostile() == []
