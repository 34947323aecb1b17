"""A fleet on a Ray cluster of this machine: the same reports, whatever workers are lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from untimed import untimed

from wiper_cli.commands.shared.example_files import example_folder

DIGITS = example_folder()
QUICK = (
    "--input-size", "32", "--mean", "0", "--std", "1", "--effort", "quick", "--device", "cpu", "--detectors",
    "max-margin", "-q",
)  # fmt: skip


def below(pid, ancestor):
    """Whether the process descends from the other."""
    while pid > 1 and pid != ancestor:
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
    return pid == ancestor


def workers(ancestor):
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"_attempt" in (place / "cmdline").read_bytes() and below(int(place.name), ancestor):
                found.append(int(place.name))
    return found


@pytest.mark.slow
def test_lost_workers_cost_nothing_but_time(few_digits, tmp_path):
    pytest.importorskip("ray")
    if not Path("/proc/self/stat").exists():
        pytest.skip("the system does not list processes")
    (tmp_path / "models").mkdir()
    for number in range(6):
        name = "twin" if number % 2 else "model"
        shutil.copy(DIGITS / f"{name}.safetensors", tmp_path / "models" / f"{number}.safetensors")
    (tmp_path / "models/6.pth").write_bytes(b"\x80\x04K\x01.")
    out = tmp_path / "out"
    asked = ["models", "--clean", str(few_digits), *QUICK]
    command = [sys.executable, "-m", "wiper_cli.main", "scan", *asked, "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--ray", "local", "--output-dir", "out", "-f", "json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed = set()
    while process.poll() is None and len(killed) < 2:
        for pid in workers(process.pid)[:1]:
            time.sleep(0.5)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.2)
    said, err = process.communicate(timeout=500)
    assert len(killed) == 2
    reports = json.loads(said)["reports"]
    assert [Path(one["model"]["path"]).name for one in reports] == [
        *(f"{n}.safetensors" for n in range(6)),
        "6.pth",
    ]
    here = subprocess.run([*command, "-f", "json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == here.returncode, err
    for there, one in zip(reports, json.loads(here.stdout)["reports"], strict=True):
        assert there["verdict"] == one["verdict"]
        if there["detection"]:
            assert untimed(there)["detection"] == untimed(one)["detection"]
    assert len(list(out.glob("*/report.json"))) == 7
    assert json.loads((out / "index.json").read_text())["finished"]


def test_where_no_cluster_answers_there_is_one_sentence(wiper, few_digits, tmp_path):
    pytest.importorskip("ray")
    code, _, err = wiper("scan", DIGITS / "model.onnx", "--clean", few_digits, "--ray", "nobody.invalid:1")
    assert code == 2
    assert "--ray nobody.invalid:1: no Ray cluster can be used there" in err
