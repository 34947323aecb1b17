"""What every report format keeps, over their table: nothing here names one."""

import contextlib
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sample_reports
from inert import active

from wiper_cli.reports import FORMATS, Style, read, render
from wiper_cli.verdict import Problem

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


#: Reports that have every section between them.
WHOLE = ("scan_explained", "scan_accepted", "purify_accepted", "refused")


def test_every_kind_of_string_is_put_in_place_of_others():
    """The walk over the samples finds names and values deep inside; what is there is still a report."""
    for name in WHOLE:
        report = sample_reports.hostile(name, "\x1b[31m")
        assert read(json.dumps(report)) == [report]
    paths = {
        ".".join(key for key in path if isinstance(key, str))
        for name in WHOLE
        for path, _ in sample_reports.free(name)
    }
    assert {
        "sentence", "model.path", "model.classes", "findings.message", "findings.evidence", "arguments",
        "tool.version", "detection.detectors.facts", "purification.settings", "not_done.why", "timing",
        "clean.skipped.examples",
        "verification.before.triggers.parameters", "purification.history.loss", "environment.device",
    } <= paths  # fmt: skip
    assert len(paths) > 60


#: Of the formats that have any.
STYLES = {"text": [Style(40), Style(colour=True), Style(comment=True)]}


@pytest.mark.parametrize(
    ("name", "style"), [(name, style) for name in FORMATS for style in STYLES.get(name, [Style()])]
)
@pytest.mark.parametrize("kind", sample_reports.HOSTILE)
def test_no_string_of_a_hostile_file_does_anything(name, style, kind):
    """By bytes: to terminals and eyes, to the runners of CI, to readers of UTF-8, and by its length."""
    text = render(name, [sample_reports.hostile(one, sample_reports.HOSTILE[kind]) for one in WHOLE], style)
    if style.colour:
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert text.encode().decode() == text
    assert active(text) == []
    assert len(text) < 4_000_000


@pytest.mark.parametrize("kind", [kind for kind in sample_reports.HOSTILE if kind != "long"])
def test_a_text_that_is_no_terminal_s_is_nothing_to_a_shell(kind, tmp_path):
    """Nor to whatever else skips lines that begin with a number sign: cron, ssh, git, make, Python, TOML."""
    reports = [sample_reports.hostile(one, sample_reports.HOSTILE[kind]) for one in WHOLE]
    text = render("text", reports, Style(comment=True))
    assert all(line == "#" or line.startswith("# ") for line in text.splitlines())
    (tmp_path / "report").write_text(text)
    for shell in (["sh"], ["bash"], ["bash", "--posix"]):
        command = [*shell, "-c", ". ./report"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_text_for_a_terminal_would_be_something_to_a_shell(tmp_path):
    """What the test above guards against does happen."""
    (tmp_path / "report").write_text(
        render("text", [sample_reports.hostile("scan_explained", sample_reports.HOSTILE["shell"])])
    )
    subprocess.run(["sh", "-c", ". ./report"], cwd=tmp_path, capture_output=True, check=False, timeout=30)
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_more_than_anybody_reads_is_left_to_the_json(name, make):
    report = make("scan_finding")
    report["findings"] *= 2_000
    report["not_done"] *= 10_000
    many = {f"key {n}": "x" * 999 for n in range(10_000)}
    report["findings"].insert(0, {**report["findings"][0], "severity": "critical", "evidence": many})
    began = time.monotonic()
    text = render(name, [report])
    if name not in ("json", "sarif", "junit"):
        assert "5941 more are in the JSON" in text
        assert len(text) < 500_000
    assert len(text) < 20_000_000
    assert time.monotonic() - began < 60


def test_what_nests_too_deep_is_no_report(make):
    report = make("scan_finding")
    report["findings"][0]["evidence"] = deep = {}
    for _ in range(60):
        deep["a"] = deep = {}
    for name in FORMATS:
        assert "evil" not in render(name, [report])
    for levels in (300, 480, 900, 5000):
        text = json.dumps(make("scan_finding")).replace(
            '"evidence": {', '"evidence": {"a": ' + '{"a": ' * levels + "1" + "}" * levels + ", ", 1
        )
        with contextlib.suppress(Problem):
            render("json", read(text))
