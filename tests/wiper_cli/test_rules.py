import re
from pathlib import Path

import pytest

from wiper_cli import rules
from wiper_cli.verdict import ATLAS, CWE

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current():
    page = (ROOT / "docs/rules.md").read_text("utf-8")
    assert page == rules.markdown(), "run: python -m wiper_cli.rules > docs/rules.md"


@pytest.mark.parametrize(
    "entry", [*rules.RULES.values(), *rules.FAMILIES.values()], ids=lambda entry: entry.id
)
def test_every_rule_says_all(entry):
    assert re.fullmatch(r"WIPER-[A-Z]+[0-9]*", entry.id)
    assert entry.title
    assert entry.means.endswith(".")
    assert entry.do.endswith(".")
    assert set(entry.cwe) <= set(CWE)
    assert set(entry.atlas) <= set(ATLAS)
    assert entry.means in entry.help()
    assert entry.do in entry.help()


def test_tables_have_no_entry_that_no_rule_names():
    every = [*rules.RULES.values(), *rules.FAMILIES.values()]
    assert {number for entry in every for number in entry.cwe} == set(CWE)
    assert {name for entry in every for name in entry.atlas} == set(ATLAS)


def test_families_answer_for_their_members():
    found = rules.rule("WIPER-TS-001")
    assert (found.id, found.title) == ("WIPER-TS-001", rules.FAMILIES["WIPER-TS"].title)
    assert rules.rule("WIPER-B01") is rules.RULES["WIPER-B01"]


@pytest.mark.parametrize("unknown", ["WIPER-B99", "WIPER-XX-001", "", "WIPER"])
def test_unknown_ids(unknown):
    with pytest.raises(KeyError):
        rules.rule(unknown)
    assert rules.known(unknown).id == unknown
    assert "another version" in rules.known(unknown).means


def test_every_rule_that_the_code_names_is_known():
    named = {
        found
        for package in ("formats", "wiper_cli")
        for path in (ROOT / package).rglob("*.py")
        for found in re.findall(r'"(WIPER-[A-Z0-9-]*[0-9])"', path.read_text("utf-8"))
    }
    assert {"WIPER-TS-001", "WIPER-B01"} <= named
    unknown = []
    for identifier in sorted(named):
        try:
            rules.rule(identifier)
        except KeyError:
            unknown.append(identifier)
    assert unknown == []
