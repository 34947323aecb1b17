"""What changed since an earlier report: verdict, findings by rule and place, statistics, and what else differs."""

import copy
import json

import pytest

from wiper_cli.reports import Style, render, story
from wiper_cli.reports.changes import changes
from wiper_cli.reports.schema import problem


@pytest.fixture
def pair(make):
    """(an earlier report without a finding, a later one of the same file with one and another statistic)."""
    new = make("scan_finding")
    old = copy.deepcopy(new)
    old |= {"created": "2026-01-02T03:04:05+00:00", "verdict": "no_finding", "findings": []}
    detector = old["detection"]["detectors"][0]
    detector |= {"statistic": 1.25, "fired": False}
    return old, new


def test_what_is_new_and_what_has_gone(pair):
    old, new = pair
    found = changes(new, [old], "old.json")
    assert (found["since"], found["verdict"]) == (
        old["created"],
        {"before": "no_finding", "after": new["verdict"]},
    )
    assert [one["message"] for one in found["new"]] == [one["message"] for one in new["findings"]]
    assert found["gone"] == []
    first = new["detection"]["detectors"][0]
    assert found["detectors"][0] == {
        "name": first["name"], "before": 1.25, "after": first["statistic"],
        "fired": {"before": False, "after": first["fired"]},
    }  # fmt: skip
    assert found["facts"] == []
    back = changes(old, [new], "new.json")
    assert (back["new"], back["gone"]) == ([], found["new"])
    assert problem({**new, "changes": found}) == problem({**old, "changes": back}) == ""


def test_a_finding_is_the_same_by_rule_and_place_whatever_it_says(pair):
    _, new = pair
    finding = {
        "rule": "WIPER-B01",
        "severity": "high",
        "message": "4.1",
        "place": {"class": 1},
        "evidence": {},
    }
    old = {**new, "findings": [finding]}
    again = {**finding, "message": "4.2", "severity": "critical"}
    assert changes({**new, "findings": [again]}, [old], "f")["new"] == []
    assert len(changes({**new, "findings": [again, again]}, [old], "f")["new"]) == 1
    elsewhere = changes({**new, "findings": [{**again, "place": {"class": 2}}]}, [old], "f")
    assert (len(elsewhere["new"]), len(elsewhere["gone"])) == (1, 1)


def test_the_counterpart_is_of_the_same_path_or_of_the_same_bytes(pair):
    old, new = pair
    same_bytes = {**old, "model": {**old["model"], "path": "moved"}, "created": "2026-01-01T00:00:00+00:00"}
    stranger = {**old, "model": {"path": "other", "opened": "not opened"}}
    assert changes(new, [stranger, same_bytes, old], "f")["since"] == old["created"]
    assert changes(new, [stranger, same_bytes], "f")["since"] == same_bytes["created"]
    assert changes(new, [stranger], "f")["since"] == stranger["created"]
    assert changes(new, [stranger], "f", alone=False)["since"] is None
    none = changes(new, [stranger, stranger], "f")
    assert none["since"] is None
    assert "f has no report of this model" in story.changed({**new, "changes": none})
    assert story.change_rows({**new, "changes": none}) == []


def test_what_else_differs_is_said(pair):
    old, new = pair
    old = {**old, "seed": 7, "model": {**old["model"], "sha256": "0" * 64}}
    facts = {one["what"]: (one["before"], one["after"]) for one in changes(new, [old], "f")["facts"]}
    assert facts == {"model": ("0" * 64, new["model"]["sha256"]), "seed": ("7", str(new["seed"]))}


def test_a_detector_that_only_one_of_them_has(pair):
    old, new = pair
    name = old["detection"]["detectors"].pop(0)["name"]
    found = {one["name"]: one for one in changes(new, [old], "f")["detectors"]}
    assert found[name]["before"] is None
    assert found[name]["after"] is not None
    assert name in {one["name"] for one in changes(old, [new], "f")["detectors"]}


@pytest.mark.parametrize("name", ["text", "markdown", "html", "sarif", "junit", "json"])
def test_every_format_tells(pair, name):
    old, new = pair
    text = " ".join(
        render(name, [{**new, "changes": changes(new, [old], "old.json")}], Style(width=400)).split()
    )
    text = text.replace("&#8203;", "")
    if name == "json":
        assert json.loads(text)["changes"]["verdict"]["before"] == "no_finding"
        return
    assert "of 2026-01-02T03:04:05+00:00 the verdict was" in text
    if name not in ("sarif", "junit"):
        assert "1.25 → " in text
