"""Bad input, as a user meets it: one clear sentence, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from wiper_cli.commands.shared.example_files import example_folder

ROOT = Path(__file__).resolve().parents[3]
DIGITS = example_folder()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "wiper_cli.main"]


@pytest.fixture
def scan(wiper, child):
    """``scan(model, clean, …)`` in this process, without detectors: exit code, stdout, stderr."""
    always = ("--detectors", "none", "-q")
    return lambda model, clean=DIGITS / "clean", *more: wiper("scan", model, "--clean", clean, *always, *more)


def expect(outcome, code, words):
    said = " ".join((outcome[2] + outcome[1]).split())
    assert outcome[0] == code, said
    assert words.lower() in said.lower()


@pytest.fixture
def small(tmp_path, few_digits):
    """A few clean images of every class, to be changed by the test."""
    return shutil.copytree(few_digits, tmp_path / "clean")


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def _pickle() -> bytes:
    return pickle.dumps(Evil(), protocol=2)


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _nan_header() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", float("nan"))


NO_MODEL = {
    "empty": (b"", 2, "empty"),
    "random": (bytes(range(256)) * 40, 2, "is no model file known here"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", 2, "git lfs pull"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), 3, "wiper convert"),
    "harmful pickle": (_pickle(), 1, "WIPER-PKL-001"),
    "harmful pickle in a zip": (_torch_zip(), 1, "WIPER-PKL-001"),
    "truncated safetensors": ((DIGITS / "model.safetensors").read_bytes()[:-100], 2, "truncated"),
    "truncated torchscript": ((DIGITS / "model.torchscript.pt").read_bytes()[:-100], 2, "truncated"),
    "truncated onnx": ((DIGITS / "model.onnx").read_bytes()[:-100], 2, "truncated"),
    "unknown tensors": (_nan_header(), 3, "--arch"),
}


@pytest.mark.parametrize("case", NO_MODEL)
def test_a_file_that_is_no_model(scan, case, tmp_path):
    data, code, words = NO_MODEL[case]
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    expect(scan(path), code, words)
    assert not Path("executed").exists()


def test_a_missing_file_and_a_folder(scan, tmp_path):
    expect(scan(tmp_path / "none.onnx"), 2, "none.onnx")
    expect(scan(tmp_path), 2, "directory")


@pytest.mark.root
def test_an_unreadable_file(scan, tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(DIGITS / "model.onnx", path)
    path.chmod(0)
    expect(scan(path), 2, "not readable")


def test_the_extension_does_not_matter(scan, tmp_path, small):
    path = tmp_path / "model.safetensors"
    shutil.copy(DIGITS / "model.onnx", path)
    assert json.loads(scan(path, small, "-f", "json")[1])["model"]["kind"] == "onnx"


def test_weights_that_are_not_numbers(scan, tmp_path, small):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(DIGITS / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.ndim == 4)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    expect(scan(tmp_path / "nan.safetensors", small), 3, name)


def test_one_class_only(scan, small):
    for folder in list(small.iterdir())[1:]:
        shutil.rmtree(folder)
    expect(scan(DIGITS / "model.onnx", small), 3, "all images are of one class")


def test_too_many_classes(scan, small):
    for name in ("10", "11"):
        shutil.copytree(small / "9", small / name)
    expect(scan(DIGITS / "model.onnx", small), 2, "12 class folders")


@pytest.mark.parametrize(
    ("change", "section", "said"),
    [
        (lambda image: image.resize((48, 40)), "preprocessing", '"size": [32, 32]'),
        (lambda image: image.convert("RGB"), "clean", "luma"),
    ],
    ids=["another size", "colour"],
)
def test_images_that_are_converted_and_that_is_said(scan, small, change, section, said):
    for picture in small.rglob("*.png"):
        with Image.open(picture) as image:
            change(image).save(picture)
    code, out, err = scan(DIGITS / "model.onnx", small, "-f", "json")
    assert code == 3, err  # no detector was asked, so there is no verdict
    assert said in json.dumps(json.loads(out)[section])


def test_outputs_that_are_refused(wiper, tmp_path):
    model = tmp_path / "model.onnx"
    shutil.copy(DIGITS / "model.onnx", model)
    before = model.read_bytes()
    other = tmp_path / "other.onnx"
    other.write_bytes(b"precious")
    clean = ("--clean", DIGITS / "clean")
    expect(wiper("purify", model, *clean, "-o", model), 2, "input file itself")
    expect(wiper("purify", model, *clean, "-o", other), 2, "--force")
    expect(wiper("purify", model, *clean, "-o", tmp_path / "no" / "out.onnx"), 2, "does not exist")
    expect(wiper("purify", model, *clean), 2, "--output")
    assert (model.read_bytes(), other.read_bytes()) == (before, b"precious")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model.onnx", "other.onnx"]


def started(tmp_path):
    """A purification that takes long, a second after its private copy stands: there is something to lose."""
    process = subprocess.Popen(
        [*COMMAND, "purify", str(DIGITS / "model.onnx"), "--clean", str(DIGITS / "clean"),
         "-o", str(tmp_path / "out.onnx"), "--epochs", "500"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        # A shell's background job, which this suite may be, hands on that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("wiper-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    return process


def is_worker(pid):
    """Not one that writes the libraries' bytecode, nor the gate's, which is soon done."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"wiper_cli.worker.child" in command and b'"bounds": null' in command


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, sign):
    process = started(tmp_path)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    # What stands is told, where there was time for anything to.
    assert "It was interrupted." in out if out else "Interrupted; no file was left half-written." in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_child_is_no_verdict(tmp_path):
    process = started(tmp_path)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not listed.exists():
        process.kill()
        pytest.skip("the system does not list child processes")
    while not (workers := [int(pid) for pid in listed.read_text().split() if is_worker(pid)]):
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "killed by signal 9" in err
    assert list(tmp_path.iterdir()) == []


def test_time_that_is_too_short(wiper, small):
    expect(wiper("scan", DIGITS / "model.onnx", "--clean", small, "--timeout", "1"), 3, "--timeout")


def test_wrong_usage_is_two(wiper, scan, tmp_path, small):
    expect(wiper("scna"), 2, "scna")
    expect(wiper("scan"), 2, "MODEL")
    expect(scan(DIGITS / "model.onnx", small, "-f", "jsno"), 2, "json")
    expect(scan(DIGITS / "model.onnx", small, "-f", f"json={tmp_path}/no/out.json"), 2, "does not exist")
    expect(scan(DIGITS / "model.onnx", small, "--device", "cuda:99"), 2, "cuda")
    expect(scan(DIGITS / "model.onnx", small, "--detectors", "max-margin, sqare"), 2, "no detector 'sqare'")


def test_a_model_and_images_of_different_channels(scan, small):
    expect(scan(DIGITS / "model.onnx", small, "--mean", "0.1,0.2,0.3", "--std", "1,1,1"), 2, "channel")


def test_an_output_that_only_knows_ascii(small):
    poor = subprocess.run(
        [*COMMAND, "scan", DIGITS / "model.onnx", "--clean", small, "--detectors", "none", "-q"],
        capture_output=True, text=True, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}, check=False,
    )  # fmt: skip
    assert poor.returncode == 3, poor.stderr
    assert "INCOMPLETE" in poor.stdout
    assert "Traceback" not in poor.stderr


def test_one_bad_file_leaves_the_others_their_reports(wiper, tmp_path):
    """A format version of 5,000 digits is more than Python makes a number of."""
    from torchscript_files import rezip

    data = (DIGITS / "model.torchscript.pt").read_bytes()
    bad = tmp_path / "bad.pt"
    bad.write_bytes(rezip(data, {"version": b"9" * 5000}))
    code, out, err = wiper(
        "inspect", "--static", DIGITS / "model.onnx", bad, DIGITS / "model.onnx", "-f", "json"
    )
    assert [report["exit_code"] for report in json.loads(out)["reports"]] == [0, 3, 0], err
    assert code == 3
