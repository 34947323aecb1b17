"""The two ends of a result: begun, refused, concluded."""

import copy
import itertools
from pathlib import Path

import jsonschema
import pytest

from formats import (
    EditError,
    FormatError,
    Hostile,
    UnknownArchitecture,
    Unreadable,
    Unsupported,
    read_source,
)
from formats.errors import Ambiguous, Stateful
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker import gate


@pytest.fixture
def document():
    return documents.begin("scan", ["scan", "m.onnx"], Path("m.onnx"), 3)


def findings(*severities):
    return [Finding("WIPER-B01", severity, "Something.").as_dict() for severity in severities]


def test_what_was_begun_is_incomplete_and_valid(document):
    jsonschema.validate(document, schema())
    assert (document["verdict"], document["exit_code"]) == ("incomplete", 3)
    assert (document["model"]["path"], document["seed"]) == ("m.onnx", 3)
    assert document["arguments"] == ["scan", "m.onnx"]


def test_the_gate_s_facts(document):
    source = read_source(example_folder() / "model.safetensors")
    documents.describe(
        document, source, gate.judge(gate.GateJob(model=example_folder() / "model.safetensors"))
    )
    jsonschema.validate(document, schema())
    model = document["model"]
    assert (model["kind"], model["size"], model["opened"]) == ("safetensors", len(source.data), "static")
    assert model["sha256"] == source.sha256
    assert model["parameters"] > 80_000


def test_the_gate_s_facts_stay_when_the_child_s_join_them(document, scanned):
    document["model"].update(sha256="0" * 64, kind="onnx")
    document["not_done"].append({"what": "a", "why": "b"})
    documents.merge(document, scanned(not_done=({"what": "c", "why": "d"},), timing={"open": 1.0}))
    assert (document["model"]["sha256"], document["model"]["opened"]) == ("0" * 64, "full")
    assert [entry["what"] for entry in document["not_done"]] == ["a", "c"]
    assert document["sentence"] == "Nothing."
    assert document["salience"] is None
    assert document["timing"] == {"open": 1.0}


def test_what_is_no_section_is_not_taken(document, scanned):
    before = copy.deepcopy(document)
    with pytest.raises(
        Problem, match="cannot be used: the document, clean has an unknown field 'odd'"
    ) as caught:
        documents.merge(document, scanned(clean={"odd": 1}))
    assert (caught.value.exit_code, document) == (ExitCode.NO_VERDICT, before)


REFUSALS = {
    "unreadable": (Unreadable("It is empty."), ExitCode.USAGE),
    "ambiguous": (Ambiguous("Two outputs may be it.", {"a": 3, "b": None}), ExitCode.NO_VERDICT),
    "unsupported": (Unsupported("It cannot be opened."), ExitCode.NO_VERDICT),
    "stateful": (Stateful("It keeps state."), ExitCode.NO_VERDICT),
    "unknown": (UnknownArchitecture("Nothing fits.", ("resnet18",)), ExitCode.NO_VERDICT),
    "edit": (EditError("It does not fit."), ExitCode.NO_VERDICT),
    "format": (FormatError("It is odd."), ExitCode.NO_VERDICT),
    "wrong usage": (Problem("There is no such folder."), ExitCode.USAGE),
    "no verdict": (Problem("Too few images.", ExitCode.NO_VERDICT), ExitCode.NO_VERDICT),
    "finding": (Problem("It is hostile.", ExitCode.FINDING), ExitCode.FINDING),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_ends_with_its_sentence_and_code(name, document):
    error, code = REFUSALS[name]
    documents.refuse(document, error)
    jsonschema.validate(document, schema())
    assert (document["sentence"], document["exit_code"]) == (str(error), code)
    assert (document["verdict"], document["findings"]) == ("incomplete", [])
    assert document["not_done"] == [{"what": "the examination", "why": str(error)}]


def test_every_refusal_of_the_tree_is_tried():
    def below(kind):
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    own = {kind for kind in below(FormatError) if kind.__module__.startswith("formats.errors")}
    assert own == {type(error) for error, _ in REFUSALS.values()} - {Problem} | {Hostile}


def test_a_hostile_file_is_a_critical_finding(document):
    documents.refuse(document, Hostile("Two members are called 'x'.", "WIPER-TS-004", "x"))
    jsonschema.validate(document, schema())
    assert (document["verdict"], document["exit_code"]) == ("malicious", 1)
    (finding,) = document["findings"]
    assert (finding["rule"], finding["severity"]) == ("WIPER-TS-004", "critical")
    assert (finding["place"], document["not_done"][0]["what"]) == ({"member": "x"}, "everything else")


BARS = [severity.word for severity in Severity if severity > Severity.INFO]


@pytest.mark.parametrize(("bar", "found"), list(itertools.product(BARS, Severity)))
def test_fail_on_is_the_lowest_severity_that_fails(bar, found, document):
    document.update(findings=findings(Severity.INFO, found), verdict=Verdict.SUSPICIOUS.value)
    documents.conclude(document, bar, exit_zero=False)
    assert document["exit_code"] == (1 if found >= Severity[bar.upper()] else 0)


@pytest.mark.parametrize("bar", BARS)
def test_without_findings_the_verdict_decides(bar, document):
    for verdict, code in (("no_finding", 0), ("incomplete", 3), ("malicious", 1)):
        document.update(findings=[], verdict=verdict)
        documents.conclude(document, bar, exit_zero=False)
        assert document["exit_code"] == code


def test_a_finding_comes_before_an_incomplete_look(document):
    document.update(findings=findings(Severity.HIGH), verdict="incomplete")
    documents.conclude(document, "high", exit_zero=False)
    assert document["exit_code"] == 1
    documents.conclude(document, "critical", exit_zero=False)
    assert document["exit_code"] == 3


@pytest.mark.parametrize(("bar", "code"), [("low", 1), ("high", 1), ("critical", 3)])
def test_a_refusal_brings_its_findings_and_its_verdict(bar, code, document):
    found = findings(Severity.HIGH)[0]
    finding = Finding(found["rule"], Severity.HIGH, found["message"])
    error = Problem("It is two things.", ExitCode.NO_VERDICT, [finding], Verdict.SUSPICIOUS)
    documents.refuse(document, error, bar)
    jsonschema.validate(document, schema())
    assert (document["verdict"], document["exit_code"]) == ("suspicious", code)
    assert document["findings"] == [finding.as_dict()]


def test_findings_of_a_refusal_that_are_none_are_not_taken(document):
    """The child that sends them is not trusted."""
    finding = Finding("no rule", Severity.HIGH, "It is odd.")
    documents.refuse(document, Problem("It is odd.", ExitCode.NO_VERDICT, [finding], Verdict.SUSPICIOUS))
    jsonschema.validate(document, schema())
    assert (document["verdict"], document["findings"], document["exit_code"]) == ("incomplete", [], 3)


def test_exit_zero_spares_findings_and_nothing_else(document):
    spared = {code: documents.spare(code, True) for code in ExitCode}
    assert spared == {**{code: code for code in ExitCode}, ExitCode.FINDING: ExitCode.OK}
    assert all(documents.spare(code, False) == code for code in ExitCode)
    document.update(findings=findings(Severity.CRITICAL), verdict="suspicious")
    documents.conclude(document, "high", exit_zero=True)
    assert document["exit_code"] == 0
    document.update(findings=[], verdict="incomplete")
    documents.conclude(document, "high", exit_zero=True)
    assert document["exit_code"] == 3


def test_a_purification_that_could_not_be_written_is_none(document):
    document["purification"] = {"accepted": True, "reason": "", "output": None}
    documents.refuse(document, Problem("No space left."))
    assert document["purification"] == {"accepted": False, "reason": "No space left.", "output": None}
