"""What every report format keeps, over their table: nothing here names one."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wiper_cli.reports import FORMATS, read, render

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_renders_every_sample_the_same_twice(name, sample):
    text = render(name, [sample])
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert text == render(name, [sample])
    assert Path(sample["model"]["path"]).name in text


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_several_reports_and_none(name, make, sample_names):
    text = render(name, [make(entry) for entry in sample_names])
    assert "evil.pt" in text
    assert "model.onnx" in text
    assert render(name, [])


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_not_finite_are_not_measured(name, make):
    report = make("purify_accepted")
    report["salience"]["units"][3] = math.nan
    report["salience"]["stability"]["rank_correlation"] = math.nan
    report["detection"]["detectors"][0] |= {"statistic": math.inf, "threshold": math.nan}
    report["detection"]["detectors"][0]["per_class"][1] = -math.inf
    report["detection"]["detectors"][1]["per_class"] = [math.nan] * 10
    report["purification"]["history"][0]["loss"]["clean"] = math.nan
    report["verification"]["after"]["acc"]["value"] = math.nan
    text = render(name, [report])
    assert "NaN" not in text
    assert "Infinity" not in text
    assert " nan" not in text
    assert ">inf<" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_in_a_report_may_be_missing(name, make):
    """Only what the schema requires is there."""
    report = make("purify_accepted")
    for detector in report["detection"]["detectors"]:
        for key in set(detector) - {"name", "title", "ran"}:
            del detector[key]
    report["model"] = {"path": "m.onnx", "opened": "not opened"}
    report["salience"] = {"metric": "BS", "units": []}
    report["clean"] = {}
    report["preprocessing"] = {}
    report["purification"] = {"method": "unlearn", "accepted": None, "history": [{"epoch": 1}]}
    trigger = {"family": "square", "origin": "recovered", "asr": None}
    report["verification"] = {"before": {"acc": None, "triggers": [trigger]}}
    report["findings"] = [{"rule": "WIPER-Z99", "severity": "low", "message": "m"}]
    for key in ("seed", "environment", "timing", "isolation"):
        del report[key]
    assert read(json.dumps(report)) == [report]
    assert "m.onnx" in render(name, [report])


def test_reports_import_no_model_library():
    code = (
        "import sys; import wiper_cli.reports as r\n"
        "from importlib import import_module\n"
        "assert not {'rich', 'jinja2'} & set(sys.modules)\n"
        "[import_module(m) for m in r.FORMATS.values()]\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'formats', 'triggers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_invisible_of_a_hostile_file_reaches_a_report(name, make, sample_names):
    for entry in sample_names:
        hidden = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
        assert not re.search(hidden, render(name, [make(entry, hostile=True)]))
