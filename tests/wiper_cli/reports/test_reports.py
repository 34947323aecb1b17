import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from wiper_cli.reports import FORMATS, Output, as_document, outputs, read, render, style_of
from wiper_cli.reports.plain import Style
from wiper_cli.verdict import Problem

ROOT = Path(__file__).resolve().parents[3]


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


def test_outputs_as_asked():
    assert outputs([]) == (Output("text"),)
    assert outputs(["json", "html=a=b.html"]) == (Output("json"), Output("html", Path("a=b.html")))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["htlm"], "html"),
        (["zzz"], "choose from"),
        (["json="], "file name"),
        (["json", "text"], "standard output"),
        (["json=a", "html=a"], "a"),
    ],
)
def test_outputs_that_cannot_be(asked, said):
    with pytest.raises(Problem, match=said) as caught:
        outputs(asked)
    assert caught.value.exit_code == 2


def test_one_report_is_itself_and_several_are_a_list(make):
    one, two = make("scan_clean"), make("scan_finding")
    assert as_document([one]) is one
    document = as_document([one, two, make("incomplete")])
    assert document["schema"] == "wiper-reports/1"
    assert document["exit_code"] == 1
    assert len(document["reports"]) == 3
    assert as_document([])["exit_code"] == 0


def test_json_reads_back(make):
    reports = [make("scan_finding"), make("purify_accepted")]
    assert read(render("json", reports)) == reports
    assert read(render("json", reports[:1])) == reports[:1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "schema"),
        ('{"schema": "wiper-report/1"}', "'tool'"),
    ],
)
def test_other_files_are_refused_in_a_sentence(text, said):
    with pytest.raises(Problem, match=said) as caught:
        read(text)
    assert caught.value.exit_code == 2


class Stream:
    def __init__(self, terminal):
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("terminal", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_asked_for(terminal, environ, colour):
    assert style_of(Stream(terminal), environ).colour is colour


def test_width_without_a_terminal_is_fixed():
    assert style_of(Stream(False), {"COLUMNS": "50"}) == Style()
