"""An old result rendered again."""

import json
import time
from pathlib import Path

import pytest

from wiper_cli.commands.shared import document as documents
from wiper_cli.verdict import Problem


@pytest.fixture
def result(tmp_path):
    document = documents.begin("scan", ["scan", "m.onnx"], Path("m.onnx"), 0)
    documents.refuse(document, Problem("There are too few images."))
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    return path


def test_json_comes_back_as_it_was(result, wiper):
    code, out, err = wiper("report", result, "-f", "json")
    assert (code, err, json.loads(out)) == (0, "", json.loads(result.read_text()))


def test_text_is_the_default_and_other_formats_go_to_files(result, wiper, tmp_path):
    code, out, _ = wiper("report", result)
    assert code == 0
    assert "too few images" in out
    code, out, _ = wiper("report", result, "-f", "html=page.html", "-f", "sarif=run.sarif")
    assert (code, out) == (0, "")
    assert "too few images" in (tmp_path / "cwd" / "page.html").read_text()
    assert json.loads((tmp_path / "cwd" / "run.sarif").read_text())["version"] == "2.1.0"


def test_a_list_of_results_stays_one(result, wiper):
    report = json.loads(result.read_text())
    result.write_text(json.dumps({"schema": "wiper-reports/1", "reports": [report] * 2, "exit_code": 2}))
    code, out, _ = wiper("report", result, "-f", "json")
    assert (code, json.loads(out)["reports"]) == (0, [report] * 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1e999]", "not JSON"),
        (b"[1" + b"0" * 400 + b"]", "not JSON"),
        (b"[]", "not a wiper report"),
        (b'{"schema": "wiper-report/1"}', "'tool'"),
        (b'{"schema": "wiper-report/2"}', "not a wiper report"),
    ],
)
def test_what_is_no_result_is_wrong_usage(data, words, wiper, tmp_path):
    (tmp_path / "some.json").write_bytes(data)
    code, out, err = wiper("report", tmp_path / "some.json")
    assert (code, out) == (2, "")
    assert words in err


def test_a_result_with_very_many_findings_is_rendered_and_one_of_too_many_values_refused(
    wiper, result, tmp_path
):
    """In time that grows with their number: 40,000 of them in about a second, in processor time."""
    report, path = json.loads(result.read_text()), tmp_path / "many.json"
    one = {
        "rule": "WIPER-B03",
        "severity": "critical",
        "message": "A square.",
        "evidence": {},
        "place": {"class": 1},
    }
    report["findings"] = [{**one, "pictures": None}] * 40_000
    path.write_text(json.dumps(report))
    began = time.process_time()
    assert wiper("report", path)[0] == 0
    assert time.process_time() - began < 10
    path.write_text(f"[{'[],' * 2_000_000}[]]")
    code, _, err = wiper("report", path)
    assert (code, "more than 3,000,000 values, which no report does" in err) == (2, True)


def test_a_result_that_cannot_be_read(wiper, tmp_path):
    assert wiper("report", tmp_path)[0] == 2
    code, _, err = wiper("report", tmp_path / "none.json")
    assert code == 2
    assert "none.json" in err
