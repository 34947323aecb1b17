"""What the commands share: outputs whole or not at all, one document a file, one exit code."""

import json
import os
from pathlib import Path

import jsonschema
import pytest

from formats import Hostile, Unreadable
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.run import Run, check_requested, deliver, finish, require_clean
from wiper_cli.commands.shared.terminal import Display
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity

DIGITS = example_folder()


@pytest.fixture
def document():
    return documents.begin("scan", [], Path("m.onnx"), 0)


def test_a_report_that_cannot_be_written_costs_no_other_and_not_the_verdict(tmp_path, capsys, document):
    asked = (f"json={tmp_path}/gone/a.json", f"html={tmp_path}/a.html", f"sarif={tmp_path}/gone/b.sarif")
    run = Run("scan", settings(output_formats=asked), Display())
    with pytest.raises(Problem, match=r"gone/a\.json cannot be written: No such file or directory"):
        finish(run, [{**document, "sentence": "Nothing."}])
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert capsys.readouterr().err == "m.onnx: Nothing.\n"


def test_every_format_goes_where_it_was_asked(tmp_path, capsys, document):
    deliver([f"json={tmp_path}/a.json", f"html={tmp_path}/a.html", "markdown"], [document])
    out, _ = capsys.readouterr()
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == document["schema"]
    assert (tmp_path / "a.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert out.startswith("#")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]


def test_several_reports_are_one_document(capsys, document):
    deliver(["json"], [document, {**document, "exit_code": 1}])
    found = json.loads(capsys.readouterr().out)
    assert (len(found["reports"]), found["exit_code"]) == (2, 1)


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (["json", "text"], "standard output"),
        (["json", "json"], "standard output"),
        (["json=a", "html=a"], "cannot both go to a"),
        (["jsno"], "the nearest is 'json'"),
        (["zzz"], "choose from"),
        (["json="], "needs a file name"),
        (["json=no/such/folder/a"], "The folder of"),
        (["json=."], "is a folder"),
        (["json=m.onnx"], "would replace m.onnx"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(requested, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Problem, match=words):
        check_requested(requested, [Path("m.onnx")])


def test_two_reports_to_stdout_end_a_command(wiper, child, few_digits):
    code, out, err = wiper("scan", DIGITS / "model.onnx", "--clean", few_digits, "-f", "json", "-f", "text")
    assert (code, out) == (2, "")
    assert "standard output" in err
    assert child.requests == []


def test_a_name_that_is_no_text_passes_every_format(tmp_path):
    path = Path(os.fsdecode(b"m\xff\x1b[31m\n<b>.onnx"))
    document = documents.begin("scan", ["scan", str(path)], path, 0)
    documents.refuse(document, Unreadable(f"{path} is empty."))
    for name in ("text", "json", "html", "sarif", "markdown", "junit"):
        deliver([f"{name}={tmp_path / name}"], [document])
        data = (tmp_path / name).read_bytes()
        data.decode()
        assert b"\x1b" not in data


def settings(**changes):
    import click

    from wiper_cli.commands.shared.options import Settings, shared_options

    @click.command()
    @shared_options
    @click.pass_context
    def bare(context, **_):
        pass

    context = bare.make_context("bare", [])
    return Settings.of(context) if not changes else _replaced(Settings.of(context), changes)


def _replaced(value, changes):
    import dataclasses

    return dataclasses.replace(value, **changes)


@pytest.mark.parametrize(
    ("error", "code", "spared"),
    [
        (Problem("No.", ExitCode.FINDING), 1, 0),
        (Problem("No."), 2, 2),
        (Problem("No.", ExitCode.NO_VERDICT), 3, 3),
        (Unreadable("No."), 2, 2),
        (Hostile("No.", "WIPER-TS-004"), 1, 0),
    ],
)
def test_a_refusal_becomes_its_document(error, code, spared):
    def work(document):
        raise error

    for exit_zero, expected in ((False, code), (True, spared)):
        run = Run("scan", settings(exit_zero=exit_zero), Display(quiet=True))
        document = run.document(Path("m"), work)
        jsonschema.validate(document, schema())
        assert (document["sentence"], document["exit_code"]) == ("No.", expected)
        assert document["timing"]["total"] >= 0


def test_whatever_is_raised_ends_one_document_and_not_the_run(monkeypatch):
    def work(document):
        raise ValueError("Exceeds the limit")

    run = Run("scan", settings(), Display(quiet=True))
    document = run.document(Path("m"), work)
    jsonschema.validate(document, schema())
    assert (document["verdict"], document["exit_code"]) == ("incomplete", 3)
    assert document["sentence"].startswith("Internal failure (ValueError): Exceeds the limit;")
    monkeypatch.setenv("WIPER_DEBUG", "1")
    with pytest.raises(ValueError, match="Exceeds"):
        run.document(Path("m"), work)


def test_the_child_gets_a_private_copy_and_the_settings(child, scanned, few_digits, tmp_path, wiper):
    (tmp_path / "model.onnx").write_bytes((DIGITS / "model.onnx").read_bytes())
    child.answers[ScanRequest] = scanned()
    code, out, err = wiper(
        "scan", tmp_path / "model.onnx", "--clean", few_digits, "--seed", "5", "-q", "-f", "json"
    )
    assert code == 0, err
    (request,) = child.requests
    assert request.model.name == "model.onnx"
    assert request.model.parent != tmp_path
    assert not request.model.exists()
    assert (request.seed, request.clean) == (5, few_digits)
    assert json.loads(out)["model"]["size"] == (DIGITS / "model.onnx").stat().st_size
    assert err.strip().endswith("model.onnx: Nothing.")


@pytest.mark.parametrize(
    "section",
    [
        {"salience": {"metric": "BS", "units": "many"}},
        {"model": {"opened": 1}},
        {"detection": {"detectors": [{"name": "x"}]}},
        {"findings": (Finding("no rule", Severity.HIGH, "M."),)},
        {"not_done": ({"what": "a"},)},
    ],
    ids=lambda section: next(iter(section)),
)
def test_a_hostile_answer_is_a_sentence_and_no_verdict(section, child, scanned, few_digits, wiper, tmp_path):
    """What has the declared type but is no section of a report would end a renderer; it never gets that far."""
    child.answers[ScanRequest] = scanned(**section)
    code, out, err = wiper(
        "scan", DIGITS / "model.onnx", "--clean", few_digits, "-f", "json", "-f",
        f"html={tmp_path / 'x.html'}",
    )  # fmt: skip
    assert code == 3
    document = json.loads(out)
    jsonschema.validate(document, schema())
    assert document["sentence"].startswith("The worker process gave an answer that cannot be used: ")
    assert document["sentence"] in err


def test_a_clean_folder_is_needed(tmp_path):
    (tmp_path / "file").write_text("x")
    for clean, words in (
        (None, "--clean DIR"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "file", "is not a folder"),
    ):
        with pytest.raises(Problem, match=words):
            require_clean(settings(clean=clean))
    require_clean(settings(clean=tmp_path))
