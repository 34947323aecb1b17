"""The commands as functions, with workers of their own; what docs/python.md shows runs as it stands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from wiper_cli import api
from wiper_cli.api import Problem, Severity, Verdict, inspect, purify, scan
from wiper_cli.api.results import PurifyResult, ScanResult
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema

ROOT = Path(__file__).resolve().parents[3]
DIGITS = example_folder()
QUICK = {"detectors": ["square-probe"], "effort": "quick"}


def test_importing_it_loads_no_torch():
    code = "import sys, wiper_cli.api; print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_name_is_there():
    assert all(hasattr(api, name) for name in api.__all__)


@pytest.mark.slow
def test_the_page_runs(tmp_path, few_digits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DIGITS / "model.onnx", "model.onnx")
    shutil.copytree(few_digits, "images")
    page = (ROOT / "docs/python.md").read_text("utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        own: dict = {}  # each can be pasted alone
        exec(block, own)
        names |= own
    out = capsys.readouterr().out
    found, done = names["found"], names["done"]
    assert (found.verdict, found.suspects[0], found.exit_code) == (Verdict.SUSPICIOUS, 0, 1)
    assert found.findings[0].severity is Severity.CRITICAL
    assert found.accuracy > 0.9
    assert found.document["isolation"]["process"] == "child"
    assert done.accepted
    assert done.output == Path("purified.onnx")
    assert done.output.exists()
    assert "The clean folder no such folder does not exist." in out
    assert names["logits"].shape == (2, 10)
    for result in (found, done, names["after"]):
        jsonschema.validate(result.document, schema())
    told = found.document["arguments"]
    assert told == ["model.onnx", "--clean", "images/", "--detectors", "square-probe", "--effort", "quick"]


def test_progress_is_heard_and_nothing_printed(capfd):
    heard = []
    inspect(DIGITS / "model.safetensors", progress=lambda *told: heard.append(told))
    assert heard[0] == ("open the model", 0, 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda there: inspect(there / "absent.onnx"), "does not exist"),
        (lambda there: inspect(there), "without a model file"),
        (lambda there: inspect("a" * 5000), "File name too long"),
        (lambda there: inspect("a\0b"), "null byte"),
        (lambda there: inspect("\ud800"), "cannot be read"),
        (lambda there: scan(DIGITS / "model.onnx", None), "A folder of clean images is needed"),
        (lambda there: scan(DIGITS / "model.onnx", there, effort="x"), "no effort 'x'"),
        (lambda there: scan(DIGITS / "model.onnx", there / "absent"), "The clean folder"),
        (lambda there: scan(DIGITS / "model.onnx", there, explain=there / "absent"), "folder of triggered images"),
        (lambda there: purify(DIGITS / "model.onnx", there, there / "o", method="none"), "no method 'none'"),
        (lambda there: purify(DIGITS / "model.onnx", there, there / "o", settings={"x": 1}), "other settings"),
        (lambda there: purify(DIGITS / "model.onnx", there, DIGITS / "model.onnx"), "the input file itself"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_a_problem(tmp_path, call, words):
    with pytest.raises(Problem, match=words):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_comes_to_is_a_result(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    found = inspect(tmp_path / "model.pt")
    assert found.verdict in (Verdict.MALICIOUS, Verdict.INCOMPLETE)
    assert found.exit_code != 0
    assert (found.suspects, found.accuracy) == ((), None)
    with pytest.raises(TypeError, match="takes no lgits"):
        inspect(DIGITS / "model.onnx", lgits="y")


def test_results_show_themselves_without_scripts(make):
    found = ScanResult(make("scan_finding"))
    assert repr(found).startswith("<ScanResult of models/model.onnx: Two detectors agree")
    shown = found._repr_html_()
    assert shown.startswith("<iframe sandbox srcdoc=")
    assert "<script" not in shown
    assert shown.count('"') == 4  # the page's own are escaped
    assert found.render("markdown").startswith("#")
    with pytest.raises(KeyError):
        found.render("pdf")
    assert PurifyResult(make("purify_accepted")).accepted
    assert not PurifyResult(make("purify_rejected")).accepted
