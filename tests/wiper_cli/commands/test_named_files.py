"""Whatever stands where an option or an argument names a file: one sentence, the exit code, and no waiting."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from wiper_cli import scratch
from wiper_cli.commands.shared.example_files import example_folder

DIGITS = example_folder()
MODEL = DIGITS / "model.onnx"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and devices with names")

SCAN = ("scan", MODEL, "--detectors", "none", "--clean")
VERIFY = ("verify", MODEL, "--triggers", "none", "--clean")
#: What is read, with {} for the file and "clean" for a folder of images.
READ = {
    "diff": (*SCAN, "clean", "--diff", "{}"),
    "ignore": (*SCAN, "clean", "--ignore", "{}"),
    "write-ignore": (*SCAN, "clean", "--write-ignore", "{}"),
    "classes": (*SCAN, "clean", "--classes", "{}"),
    "preprocessing": (*SCAN, "clean", "--preprocessing", "{}"),
    "config": (*SCAN, "clean", "--config", "{}"),
    "trigger-file": (*VERIFY, "clean", "--trigger-file", "{}"),
    "trigger-image": (*VERIFY, "clean", "--trigger-image", "{}"),
    "mask": (*VERIFY, "clean", "--trigger-image", DIGITS / "trigger.png", "--mask", "{}"),
    "report": ("report", "{}"),
    "suite": ("zoo", "build", "{}", "-o", "zoo"),
    "model": ("inspect", "--static", "{}"),
    "checkpoint": ("convert", "{}", "-o", "out.safetensors"),
    "rebuild": ("rebuild", "{}", "--arch", "resnet18", "-o", "out.safetensors"),
}
#: Kind → what makes one; all of them have names of two lines.
KINDS = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to a pipe": lambda path: (os.mkfifo(path.parent / "pipe"), path.symlink_to("pipe")),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
    "text": lambda path: path.write_bytes(b"\xff{[\n"),
    "huge": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


@pytest.fixture
def path(request, tmp_path):
    """Something called like a file."""
    (tmp_path / "there").mkdir()
    made = tmp_path / "there" / "two\nlines.json"
    KINDS[request.param](made)
    return made


@pytest.mark.parametrize("path", KINDS, indirect=True)
@pytest.mark.parametrize("option", READ)
def test_what_is_no_such_file_is_one_sentence(wiper, child, few_digits, path, option, request):
    before = sorted(path.parent.iterdir())
    words = {"clean": few_digits, "{}": path}
    code, out, err = wiper(*(words.get(word, word) for word in READ[option]))
    unsupported = (("model", "huge"), ("checkpoint", "text"))
    assert code == (3 if (option, request.node.callspec.params["path"]) in unsupported else 2), out + err
    said = " ".join((out + err).replace("\\n", " ").split())
    assert "two lines.json" in said or said.startswith("wiper: The file is no checkpoint of torch.save.")
    assert sorted(path.parent.iterdir()) == before
    assert [one.name for one in path.parent.parent.joinpath("cwd").iterdir()] == []


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "folder"])
@pytest.mark.parametrize(
    "option",
    [
        (*SCAN, "clean", "-f", "html={}"),
        ("report", "report.json", "-f", "json={}"),
        ("purify", MODEL, "--clean", "clean", "--force", "-o", "{}"),
        ("convert", MODEL, "--force", "-o", "{}"),
        ("rebuild", MODEL, "--arch", "resnet18", "--force", "-o", "{}"),
        ("triggers", "badnet", "--preview", "{}"),
    ],
    ids=lambda option: option[0],
)
def test_what_is_written_waits_for_no_reader(wiper, child, few_digits, tmp_path, option, kind, monkeypatch):
    monkeypatch.setattr(scratch, "_PATIENCE", 0.1)
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "out"
    KINDS[kind](path)
    before = sorted(path.parent.iterdir())
    report = tmp_path / "report.json"
    wiper("inspect", "--static", MODEL, "-f", f"json={report}")
    words = {"clean": few_digits, "report.json": report}
    code, out, err = wiper(*(words.get(word, str(word).replace("{}", str(path))) for word in option))
    assert code == 2, out + err
    assert "there/" in err
    assert sorted(path.parent.iterdir()) == before


def test_a_pipe_that_is_read_gets_the_report(wiper, tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert wiper("inspect", "--static", MODEL, "-f", f"json={pipe}")[0] == 0
    reader.join(10)
    assert b"wiper-report/1" in got[0]
    assert pipe.is_fifo()


def test_a_device_as_output_is_not_replaced(wiper, tmp_path):
    assert wiper("convert", MODEL, "--force", "-o", "/dev/null")[0] == 2
    assert wiper("inspect", "--static", MODEL, "-f", "json=/dev/null")[0] == 0
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")  # noqa: PTH110, PTH113, PT018


def test_links_that_lead_round_are_one_sentence(wiper, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    code, _, err = wiper("inspect", tmp_path / "a", "--static", "-f", f"json={tmp_path / 'out.json'}")
    assert code == 2
    assert "cannot be read: Too many levels of symbolic links" in err
    assert (tmp_path / "out.json").exists()
    code, _, err = wiper("inspect", MODEL, "--static", "-f", f"json={tmp_path / 'a'}")
    assert code == 2
    assert "cannot be written: its links lead round" in err
