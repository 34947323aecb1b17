"""Every seed of the fuzzer, among them what once was a fault, without atheris; and that it sees a fault."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from formats.errors import Hostile
from tools import fuzz

#: Target → bytes that are accepted unless a reader has changed its mind.
HONEST = {
    "file": ("safetensors", "onnx", "torchscript"), "safetensors": ("plain", "metadata", "empty"),
    "onnx": ("classifier", "types", "branches", "loop", "shapes"), "torchscript": ("scripted", "traced", "frozen"),
    "zip": ("torch", "plain", "zip64", "deflated"), "code": ("submodules", "loops", "values"),
    "pickle": ("net", "lists", "typed"),
}  # fmt: skip


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_seed_is_a_fault(target, monkeypatch):
    """And those that are honest reach the end of the reader, so that what is made of them does too."""
    seeds = sorted((fuzz.SEEDS / target).iterdir())
    for seed in seeds:
        with monkeypatch.context() as patch:
            if seed.name in HONEST.get(target, ()):
                patch.setattr(fuzz, "refusals", lambda: memoryview(b""))  # a context that holds nothing back
            fuzz.TARGETS[target][0](seed.read_bytes())
    assert {*HONEST.get(target, ())} <= {seed.name for seed in seeds}


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError("x"), Hostile("a\x1b[31m", "WIPER-ST-001")]
)
def test_what_is_no_refusal_is_a_fault(error, monkeypatch):
    def read(data):
        raise error

    monkeypatch.setattr("formats.safetensors.manifest.read_header", read)
    with pytest.raises((ValueError, RecursionError, AssertionError)):
        fuzz.safetensors(b"")


def test_an_archive_is_changed_in_one_member_and_stays_whole(monkeypatch):
    atheris = type(sys)("atheris")
    atheris.Mutate = lambda data, size: data[:-1] + b"?"
    monkeypatch.setitem(sys.modules, "atheris", atheris)
    data = (fuzz.SEEDS / "torchscript" / "frozen").read_bytes()
    changed = [fuzz.repacked(data, 65536, seed) for seed in range(9)]
    assert len({*changed}) == len(zipfile.ZipFile(fuzz.SEEDS / "torchscript" / "frozen").namelist())
    for one in changed:
        fuzz.zip(one)
    assert fuzz.repacked(b"no archive", 100, 0) == b"no archiv?"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is made for Linux")
@pytest.mark.parametrize("fault", [False, True])
def test_the_command_finds_a_fault_and_says_so(fault, tmp_path):
    """Of a reader that stumbles over a byte."""
    code = f"""
import pathlib
from tools import fuzz
def zip(data):
    assert not ({fault} and len(data) > 3 and data[3] == 9)
fuzz.ROOT = pathlib.Path({str(tmp_path)!r})
fuzz.TARGETS = {{"zip": (zip, "formats.torchscript.central")}}
fuzz.main(["zip", "--here", "--seconds", "3"])
"""
    root = Path(__file__).parents[2]
    # Between the two a shell: the peak of memory that libFuzzer reads is inherited from whoever starts a program.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    assert (done.returncode != 0) == fault, done.stderr
    assert bool(list((tmp_path / ".fuzz" / "zip").glob("crash-*"))) == fault


def test_wrong_usage_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "find_spec", lambda name: None)
    for given, words in ((["zpi"], "choose from file, "), (["zip"], "needs atheris")):
        with pytest.raises(SystemExit) as stop:
            fuzz.main(given)
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
