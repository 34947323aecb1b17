"""What all requests are refused for, and the example of the package."""

import json
from dataclasses import replace
from textwrap import dedent

import pytest
from refusals import refused

import wiper_cli.audit
from formats import inspect, read_source, write_edit
from wiper_cli.audit.pipeline import run
from wiper_cli.audit.requests import PurifyRequest, ScanRequest, VerifyRequest
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import scan
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS
from wiper_cli.verdict import ExitCode, Problem, Severity, Verdict

DIGITS = example_folder()


@pytest.mark.slow
def test_the_package_shows_how_to_call_it(few_digits, tmp_path, monkeypatch):
    """Its own example, as it stands, with one detector: the default method removes the backdoor of the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes((DIGITS / "model.onnx").read_bytes())
    (tmp_path / "clean").symlink_to(few_digits)
    monkeypatch.setattr("wiper_cli.audit.requests.DETECTORS", ("square-probe",))
    found = {}
    exec(dedent(wiper_cli.audit.__doc__.split("\n\n")[1]), found)
    assert found["found"].verdict is Verdict.SUSPICIOUS
    assert found["found"].detection["suspects"][0] == 0
    before, after = (found["done"].verification[when]["triggers"][0] for when in ("before", "after"))
    assert before["asr"]["value"] > 0.9 > 0.1 > after["asr"]["value"]
    source = read_source(tmp_path / "model.onnx")
    assert write_edit(source, inspect(source), found["done"].edit)[""] != source.data


@pytest.mark.parametrize(
    "asked", [("max-margins",), ("max-margin", "sqare-probe"), ("",), ("max-margin", "")]
)
@pytest.mark.parametrize("kind", [ScanRequest, PurifyRequest])
def test_an_unknown_detector(kind, asked, job, heard, nothing_long):
    with pytest.raises(Problem, match="There is no detector") as caught:
        run(job(kind, detectors=asked), heard)
    assert caught.value.exit_code == ExitCode.USAGE
    assert all(known in str(caught.value) for known in DETECTORS)


@pytest.fixture
def beside(tmp_path):
    """``beside(mean, std)``: the digits with a description beside them."""

    def write(mean, std):
        (tmp_path / "model.onnx").write_bytes((DIGITS / "model.onnx").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({"mean": [mean], "std": [std]}))
        return tmp_path / "model.onnx"

    return write


WORD = {"mean": None, "std": None, "input_size": None}


def test_a_description_that_blinds_a_scan_is_no_verdict(beside, job, heard, tmp_path):
    """The backdoored digits keep their accuracy at std 2; nothing found there says nothing of a deployment."""
    model = beside(0.0, 2.0)
    request = job(model=model, detectors=("square-probe",), **WORD)
    found = scan(request, heard)
    assert found.verdict is not Verdict.NO_FINDING
    assert "WIPER-F05" in [finding.rule for finding in found.findings]
    with refused("nothing decides", ExitCode.NO_VERDICT):
        purify(job(PurifyRequest, model=model, **WORD), heard)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"mean": [0.0], "std": [1.0]}))
    found = scan(replace(request, preprocessing=own), heard)
    assert (found.verdict, found.preprocessing["std"]) == (Verdict.SUSPICIOUS, [1.0])
    assert "WIPER-F05" not in [finding.rule for finding in found.findings]
    with refused("says it all", ExitCode.USAGE):
        scan(replace(request, preprocessing=own, std=(1.0,)), heard)


@pytest.mark.parametrize("ask", [ScanRequest, PurifyRequest, VerifyRequest])
def test_no_better_than_chance_is_no_verdict(ask, beside, job, heard, nothing_long):
    asked = job(ask, mean=(50.0,), **({"triggers": ("badnet",)} if ask is VerifyRequest else {}))
    with pytest.raises(
        Problem, match=r"No verdict: the model is right on .* no better than chance"
    ) as caught:
        run(asked, heard)
    assert caught.value.exit_code is ExitCode.NO_VERDICT
    (finding,) = caught.value.findings
    assert (finding.rule, finding.severity) == ("WIPER-F03", Severity.MEDIUM)


def test_detectors_that_were_not_asked_are_named(job, heard):
    found = scan(job(), heard)
    assert [entry["what"] for entry in found.not_done] == [f"detector {name}" for name in DETECTORS]
    assert found.verdict is Verdict.INCOMPLETE
    assert found.detection["detectors"] == []
