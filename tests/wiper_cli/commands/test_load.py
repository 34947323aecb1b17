"""What a scan does and finds is no matter of what else the machine does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from untimed import untimed

from wiper_cli.commands.shared.example_files import example_folder

ROOT = Path(__file__).resolve().parents[3]


def scan(images):
    outcome = subprocess.run(
        [
            sys.executable, "-m", "wiper_cli.main", "scan", example_folder() / "model.onnx", "--clean", images,
            "--effort", "quick", "--no-cache", "--device", "cpu", "-f", "json",
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    document = json.loads(outcome.stdout)
    assert document["exit_code"] == outcome.returncode
    return document


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scan_on_a_loaded_machine_agrees_to_the_digit(few_digits):
    quiet = scan(few_digits)
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))
    ]
    try:
        loaded = scan(few_digits)
        assert all(process.poll() is None for process in busy)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert {one["name"] for one in quiet["detection"]["detectors"] if one["ran"]} >= {
        "max-margin",
        "square-probe",
    }
    assert quiet["created"] != loaded["created"]
    assert untimed(loaded) == untimed(quiet)
