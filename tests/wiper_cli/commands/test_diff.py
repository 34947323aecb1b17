"""``wiper scan --diff OLD.json``: an earlier report is read before the work and compared with what came of it."""

import json

import pytest

from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import Finding, Severity, Verdict

DIGITS = example_folder()
SQUARE = Finding("WIPER-B03", Severity.CRITICAL, "A square.", place={"class": 2})


@pytest.fixture
def scan(wiper, child, scanned, few_digits):
    def run(*arguments, models=(DIGITS / "model.onnx",), **found):
        child.answers[ScanRequest] = scanned(**found)
        return wiper("scan", *models, "--clean", few_digits, *arguments)

    return run


def test_the_last_report_may_be_replaced_by_the_new_one(scan, tmp_path):
    last = tmp_path / "last.json"
    scan("-f", f"json={last}")
    before = json.loads(last.read_text())
    assert before["changes"] is None
    code, out, err = scan(
        "--diff", last, "-f", f"json={last}", "-f", "text", verdict=Verdict.SUSPICIOUS, findings=(SQUARE,)
    )
    after = json.loads(last.read_text())
    assert (code, after["changes"]["since"]) == (1, before["created"])
    assert after["changes"]["new"] == [{"rule": "WIPER-B03", "severity": "critical", "message": "A square."}]
    said = f"Since the report of {before['created']} the verdict was 'no finding' and is 'suspicious'; findings: 1 new"
    assert said in err
    assert said in " ".join(out.replace("\n#", " ").split())
    assert "critical WIPER-B03: A square." in out


def test_several_models_are_compared_each_with_its_own(scan, tmp_path):
    models, last = (DIGITS / "model.onnx", DIGITS / "model.safetensors"), tmp_path / "last.json"
    scan("-f", f"json={last}", models=models[:1])
    _, out, _ = scan("--diff", last, "-f", "json", models=models)
    assert [bool(one["changes"]["since"]) for one in json.loads(out)["reports"]] == [True, False]
    scan("-f", f"json={last}", models=models[::-1])
    _, out, _ = scan("--diff", last, "-f", "json", models=models)
    assert all(one["changes"]["facts"] == [] for one in json.loads(out)["reports"])


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("{", "This is not JSON"), ("{}", "This is not a wiper report")],
)
def test_what_is_no_report_is_refused_before_the_work(scan, child, tmp_path, text, words):
    old = tmp_path / "old.json"
    if text is not None:
        old.write_text(text)
    code, _, err = scan("--diff", old)
    assert code == 2
    assert f"{old}" in err
    assert words in err
    assert child.requests == []
