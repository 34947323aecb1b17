"""``wiper scan --explain``: the folder is looked at first, and what it shows reaches every report."""

import json

import jsonschema
import pytest

from wiper_cli.audit.requests import PlanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker import gate

DIGITS = example_folder()
QUICK = ("--detectors", "none", "--input-size", "32", "--mean", "0", "--std", "1", "-q")


@pytest.fixture
def scan(wiper, child, few_digits):
    """``scan(*arguments, name=…)`` → (exit code, stdout, stderr)."""

    def run(*arguments, name="model.onnx"):
        return wiper("scan", DIGITS / name, "--clean", few_digits, *QUICK, *arguments)

    return run


def test_a_missing_folder_is_refused_before_the_model_is_opened(scan, child, tmp_path):
    code, _, err = scan("--explain", tmp_path / "none")
    assert code == 2
    assert f"The folder of triggered images {tmp_path / 'none'} does not exist." in err
    code, _, err = scan("--explain", DIGITS / "trigger.png")
    assert code == 2
    assert "is not a folder" in err
    assert child.requests == []


def test_without_triggered_images_nothing_is_explained(scan, child):
    _, out, _ = scan("-f", "json")
    assert child.requests[0].explain is None
    document = json.loads(out)
    assert document["explanation"] is None
    assert document["preprocessing"]["origin"].startswith(
        "Input 32x32, as --input-size says. Mean and std as given"
    )


def test_the_same_in_all_three_formats(scan, few_digits, tmp_path):
    found = []
    for name in ("model.safetensors", "model.torchscript.pt", "model.onnx"):
        page = tmp_path / f"{name}.html"
        code, out, _ = scan("--explain", few_digits / "3", "-f", "json", "-f", f"html={page}", name=name)
        document = json.loads(out)
        jsonschema.validate(document, schema())
        assert code == document["exit_code"] == 3
        found.append(document["explanation"])
        assert "Where units look" in page.read_text("utf-8")
        assert len(found[-1]["bs"]) == len(document["salience"]["units"]) == 48
    for shown in found:
        # Clean threes, so that nothing leads elsewhere.
        assert (shown["target"], shown["moved"]) == (3, found[0]["moved"])
        assert (shown["am"], len(shown["pictures"])) == (pytest.approx(found[0]["am"], rel=1e-3, abs=1e-5), 3)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            Problem("The time of 1 s is spent without a result.", ExitCode.NO_VERDICT),
            "The time of 1 s is spent",
        ),
        (KeyboardInterrupt(), "It was interrupted."),
    ],
)
@pytest.mark.parametrize(("verdict", "code"), [(Verdict.SUSPICIOUS, 1), (Verdict.INCOMPLETE, 3)])
def test_what_was_found_before_the_end_is_reported(
    wiper, monkeypatch, scanned, few_digits, cause, words, verdict, code
):
    """A second model is not begun after an interrupt, and is after a time-out."""
    finding = Finding("WIPER-B03", Severity.CRITICAL, "A square.", place={"class": 0})
    findings = (finding,) if code == 1 else ()
    asked = []

    def ask(request, progress, log, timeout, mode, isolated, bounds, interim):
        if isinstance(request, gate.JOBS):
            return gate.run(request)
        asked.append(request)
        interim(scanned(complete=False, plan="Effort normal.", verdict=Verdict.INCOMPLETE))
        interim(scanned(complete=False, verdict=verdict, findings=findings, sentence="So far."))
        raise cause

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    models = (DIGITS / "model.onnx", DIGITS / "model.safetensors")
    found, out, err = wiper("scan", *models, "--clean", few_digits, "-f", "json")
    assert found == code
    assert len(asked) == (1 if isinstance(cause, KeyboardInterrupt) else 2)
    assert err.splitlines().count("Effort normal.") == len(asked)
    reports = json.loads(out)
    first = reports["reports"][0] if "reports" in reports else reports
    assert first["verdict"] == verdict
    assert first["sentence"].startswith(f"So far. {words}")
    assert [one["rule"] for one in first["findings"]] == [one.rule for one in findings]
    assert first["not_done"][-1]["what"] == "the rest of the scan"


@pytest.mark.parametrize("before", [True, False])
def test_an_answer_that_is_refused_stays_refused(wiper, monkeypatch, scanned, few_digits, before):
    """A wrong call is no scan that ended early; without anything heard an interrupt is one still."""

    def ask(request, progress, log, timeout, mode, isolated, bounds, interim):
        if isinstance(request, gate.JOBS):
            return gate.run(request)
        if before:
            interim(scanned(complete=False, plan="Effort normal."))
            raise Problem("The folder is gone.", ExitCode.USAGE)
        raise KeyboardInterrupt

    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", ask)
    code, out, err = wiper("scan", DIGITS / "model.onnx", "--clean", few_digits, "-q", "-f", "json")
    assert code == (2 if before else 3)
    assert ("The folder is gone." if before else "Interrupted; no file was left half-written.") in out + err
    assert "Effort" not in err


def test_the_plan_alone_is_printed(wiper, child, few_digits):
    code, out, _ = wiper(
        "scan", DIGITS / "model.onnx", "--clean", few_digits, "--dry-run", "--budget", "2h", "--mean", "0",
        "--std", "1", "-q",
    )  # fmt: skip
    assert code == 0
    assert (type(child.requests[0]), child.requests[0].budget) == (PlanRequest, 7200)
    assert "model.onnx: Effort thorough (the most that fits into 120 min): max-margin 10 classes, " in out


@pytest.mark.parametrize("given", ["0", "soon", "-3m", "inf", "nan", "m", "1d"])
def test_a_budget_is_a_time(wiper, few_digits, given):
    code, _, err = wiper("scan", DIGITS / "model.onnx", "--clean", few_digits, "--budget", given)
    assert code == 2
    assert "is not a time of a second or more such as 90s, 20m or 1.5h" in err
