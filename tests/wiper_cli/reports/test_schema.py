import copy
from pathlib import Path

import jsonschema
import pytest

from wiper_cli import verdict
from wiper_cli.reports import schema as ours

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def validator():
    checked = jsonschema.Draft202012Validator(ours.schema())
    checked.check_schema(ours.schema())
    return checked


def test_samples_keep_the_schema(sample, validator):
    assert (list(validator.iter_errors(sample)), ours.problem(sample)) == ([], "")


def test_the_page_is_current():
    page = (ROOT / "docs/report-format.md").read_text("utf-8")
    assert page == ours.markdown(), "run: python -m wiper_cli.reports.schema > docs/report-format.md"


def test_words_are_those_of_the_verdict_module():
    properties = ours.schema()["$defs"]["report"]["properties"]
    assert properties["schema"]["const"] == verdict.SCHEMA
    assert properties["verdict"]["enum"] == [entry.value for entry in verdict.Verdict]
    assert properties["exit_code"]["enum"] == [int(code) for code in verdict.ExitCode]
    severities = ours.schema()["$defs"]["finding"]["properties"]["severity"]["enum"]
    assert severities == [severity.word for severity in verdict.Severity]


def places(value, path=()):
    """Paths to every value of a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def shortened(value, key=""):
    """The document with one entry a list, two where the schema counts them, and no pictures' bytes."""
    if isinstance(value, dict):
        return {name: shortened(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value[: 2 if key in ("interval", "size") else 1]]
    return "data:image/png;base64,AAAA" if str(value).startswith("data:") else value


def replaced(document, path, value):
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("wrong", ["text", -1, 2.5, None, True, [], {}, {"unknown": 1}, ["x"]])
def test_our_check_agrees_with_a_full_validator(make, validator, wrong):
    """Every value of a report is replaced by one of another kind; both must say the same of the result."""
    document = shortened(make("purify_accepted"))
    disagreements = []
    refused = 0
    for path in places(document):
        if path in ((), ("schema",)):
            continue
        changed = replaced(document, path, wrong)
        valid = validator.is_valid(changed)
        refused += not valid
        if valid != (ours.problem(changed) == ""):
            disagreements.append((path, ours.problem(changed)))
    assert disagreements == []
    assert refused > 20


@pytest.mark.parametrize(("field", "ending"), [("sha256", "\n"), ("sha256", "0"), ("sha256", "\n\n")])
def test_the_end_of_a_form_is_the_end(make, validator, field, ending):
    report = make("scan_clean")
    report["model"][field] += ending
    assert ours.problem(report).endswith("has the wrong form")


def test_missing_fields_are_named(make):
    for name in ("tool", "verdict", "sentence", "exit_code", "findings", "not_done", "arguments"):
        document = make("inspect")
        del document[name]
        assert name in ours.problem(document)


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"schema": 1}, {"schema": ["wiper-report/1"]}, {"schema": "x"}]
)
def test_other_documents_are_refused(document):
    assert "wiper-report/1" in ours.problem(document)


def test_complete_adds_none_and_changes_nothing(make):
    document = make("refused")
    filled = ours.complete(document)
    assert filled["clean"] is None
    assert filled["model"]["architecture"] is None
    assert filled["findings"][0]["place"] == {"member": "code/__torch__/evil.py"}
    assert (
        filled | document | {key: filled[key] for key in ("model", "tool", "findings", "not_done")} == filled
    )
