"""A campaign goes on where it stopped, counts what ran and nothing else, and keeps what it found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools import campaign

SAID = """campaign: began after 2.5
Done 900 runs in 8 second(s)
stat::number_of_executed_units: 900
"""
CRASH = """campaign: began after 2.0
 === Uncaught Python exception: ===
ValueError: no `number`
stat::number_of_executed_units: 7
"""


def test_slices_add_up_without_their_start_and_a_fault_is_open_until_somebody_mends_it(tmp_path):
    path = tmp_path / "record.json"
    record = campaign.read(path)
    assert {*record["targets"]} == {*campaign.TARGETS}
    campaign.add(record["targets"]["zip"], SAID, 10.0, [], 12)
    campaign.write(path, record)
    record = campaign.read(path)
    campaign.add(record["targets"]["zip"], CRASH, 3.0, ["crash-1"], 14)
    line = record["targets"]["zip"]
    assert (line["processor_seconds"], line["inputs"], line["slices"], line["kept"]) == (8.5, 907, 2, 14)
    assert record["targets"]["code"]["processor_seconds"] == 0
    assert "open: `ValueError: no number`" in campaign.page(record)
    line["faults"][0]["mended"] = "a number that is none is refused"
    assert "a number that is none is refused" in campaign.page(record)
    assert "open:" not in campaign.page(record)


def test_what_never_began_is_not_counted():
    line = {**campaign.EMPTY, "faults": []}
    campaign.add(line, "Traceback", 9.0, [], 0)
    assert (line["processor_seconds"], line["inputs"]) == (0, 0)


CODE = """
import pathlib, sys
from tools import campaign
campaign.TARGETS = {"zip": None}
sys.exit(campaign.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is made for Linux")
def test_a_campaign_is_resumed_and_a_slice_that_was_stopped_does_not_count(tmp_path):
    record = tmp_path / "record.json"
    command = [sys.executable, "-c", CODE, "--record", str(record), "--jobs", "1"]
    root = Path(__file__).parents[2]
    had = []
    for _ in range(2):
        subprocess.run([*command, "--seconds", "1", "--slice", "3"], cwd=root, check=True)
        had.append(json.loads(record.read_text())["targets"]["zip"]["inputs"])
    assert 0 < had[0] < had[1]
    run = subprocess.Popen([*command, "--seconds", "90", "--slice", "60"], cwd=root)
    time.sleep(8)
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(20) == 0
    assert json.loads(record.read_text())["targets"]["zip"]["inputs"] == had[1]
