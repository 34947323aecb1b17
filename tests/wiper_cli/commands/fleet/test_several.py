"""Several models at once: in order whatever ends first, each for itself, and what stands is told after an interrupt."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from untimed import untimed

from formats import Hostile
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import gate

DIGITS = example_folder()
QUICK = ("--input-size", "32", "--mean", "0", "--std", "1", "--effort", "quick", "--device", "cpu")


@pytest.fixture
def models(tmp_path):
    """Four files of the same bytes."""
    folder = tmp_path / "models"
    folder.mkdir()
    return [shutil.copy(DIGITS / "model.onnx", folder / f"{name}.onnx") for name in "abcd"]


def test_the_order_is_that_of_the_models_and_no_failure_is_anothers(
    wiper, monkeypatch, scanned, few_digits, models
):
    """The first ends last; one dies, one is hostile, all others go on; no more work at once than was asked."""
    others, lock, busy, most = threading.Event(), threading.Lock(), set(), []

    def ask(job, progress, log, allowed, mode, isolated, bounds, interim):
        if isinstance(job, gate.JOBS):
            return gate.run(job)
        with lock:
            busy.add(job.model.name)
            most.append(len(busy))
        assert (allowed.beside, allowed.cores) == (2, max(1, os.cpu_count() // 2))
        try:
            if job.model.name == "a.onnx":
                assert others.wait(30)
            if job.model.name == "b.onnx":
                raise Problem("It died.", ExitCode.NO_VERDICT)
            if job.model.name == "c.onnx":
                raise Hostile("It is hostile.", "WIPER-TS-001", "x")
            if job.model.name == "d.onnx":
                others.set()
            return scanned()
        finally:
            busy.discard(job.model.name)

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    code, out, err = wiper("scan", *models, "--clean", few_digits, "--jobs", "2", "-f", "json")
    assert code == 1
    reports = json.loads(out)["reports"]
    assert [one["model"]["path"] for one in reports] == [str(path) for path in models]
    assert [one["exit_code"] for one in reports] == [0, 3, 1, 0]
    assert reports[2]["verdict"] == "malicious"
    told = [line for line in err.splitlines() if line.startswith("[")]
    assert [line[:8] for line in told] == [f"[{n} of 4]" for n in (1, 2, 3, 4)]
    assert "a.onnx" in told[2] + told[3]
    assert max(most) == 2


@pytest.mark.slow
def test_the_same_reports_side_by_side(wiper, few_digits, models):
    found = []
    for jobs in (1, 2):
        asked = ("--clean", few_digits, *QUICK, "--detectors", "max-margin", "--jobs", jobs)
        code, out, err = wiper("scan", *models[:2], *asked, "-q", "-f", "json")
        assert code in (0, 1), err
        found.append([untimed(one) for one in json.loads(out)["reports"]])
    assert found[0] == found[1]
    assert found[0][0]["isolation"]["layers"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_an_interrupt_what_stands_is_reported(few_digits, models, jobs):
    """The second model is under way; the third is not begun; the first's verdict is whole."""
    models = models * 2
    arguments = ["scan", *models, "--clean", few_digits, *QUICK, "--jobs", jobs, "-f", "json", "--verbose"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wiper_cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = "b.onnx: " if jobs == 1 else "[1 of 8]"
    said = []
    for line in process.stderr:
        said.append(line)
        if first in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    reports = json.loads(out)["reports"]
    assert process.returncode == 1, err  # the first is suspicious
    assert 2 <= len(reports) < len(models)
    assert reports[0]["verdict"] == "suspicious"
    assert "It was interrupted." in reports[-1]["sentence"]
    assert reports[-1]["exit_code"] != 0


def test_an_interrupt_before_a_verdict_is_no_success(wiper, monkeypatch, scanned, few_digits, models):
    """Nothing was found in the first, and nobody looked at the rest."""
    asked = []

    def ask(job, *_):
        if isinstance(job, gate.JOBS):
            return gate.run(job)
        asked.append(job)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return scanned()

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    code, out, _ = wiper("scan", *models, "--clean", few_digits, "-f", "json")
    reports = json.loads(out)["reports"]
    assert (code, len(asked), [one["exit_code"] for one in reports]) == (3, 2, [0, 3])
    assert reports[1]["sentence"] == "It was interrupted."


def test_whoever_wants_no_more_does_not_wait(few_digits, models):
    """Where a report cannot be written the rest is ended, not finished."""
    from wiper_cli.commands.fleet.batch import Item, in_order
    from wiper_cli.commands.shared.options import Settings
    from wiper_cli.commands.shared.run import Run
    from wiper_cli.commands.shared.terminal import Display

    names = Settings.__dataclass_fields__
    settings = Settings(**{**dict.fromkeys(names), "seed": 0, "fail_on": "high", "output_formats": ()})
    waited = threading.Event()

    def work(run, item, document):
        if item.model.endswith("a.onnx"):
            return
        waited.set()
        assert run.stop.wait(30)

    class Full:
        def put(self, number, document):
            assert waited.wait(30)
            raise Problem("No room.")

        def close(self, whole):
            assert not whole

    class Named(str):
        name = "m"

    every = [Item(Named(path), settings) for path in models]
    began = time.monotonic()
    with pytest.raises(Problem, match="No room"):
        in_order(Run("scan", settings, Display(quiet=True)), every, work, 2, Full())
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("a/net.onnx", "net.onnx"),
        ("/h/vit/model.safetensors", "vit/model.safetensors"),
        ("/h/vit/onnx/model.onnx", "vit/model.onnx"),
        ("/h/models--o--n/snapshots/1f/model.safetensors", "models--o--n/model.safetensors"),
        ("/h/models--o--n/snapshots/1f/onnx/model.onnx", "models--o--n/model.onnx"),
        ("/model.onnx", "//model.onnx"),
    ],
)
def test_files_that_are_all_called_alike_are_told_apart(path, label):
    from wiper_cli.commands.fleet.batch import Item

    assert Item(Path(path), None).label == label
