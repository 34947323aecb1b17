"""The rules, listed and explained."""

import pytest

from wiper_cli.rules import FAMILIES, RULES


def test_every_rule_is_listed_with_its_severity(wiper):
    code, out, err = wiper("rules")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    expected = {name: rule.severity.word for name, rule in RULES.items()}
    assert rows == {**expected, **{f"{name}-*": rule.severity.word for name, rule in FAMILIES.items()}}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_explained(name, wiper):
    code, out, _ = wiper("rules", name.lower())
    assert code == 0
    assert out.startswith(f"{name}: {RULES[name].title} (usually {RULES[name].severity.word})\n")
    assert len(out.splitlines()) > 2
    assert "**" not in out


def test_a_member_of_a_family_is_explained(wiper):
    code, out, _ = wiper("rules", "WIPER-TS-004")
    assert code == 0
    assert "WIPER-TS-004" in out


@pytest.mark.parametrize(
    ("asked", "words"), [("WIPER-B1", "the nearest is 'WIPER-B01'"), ("zzz", "There is no rule 'zzz'.")]
)
def test_an_unknown_rule_is_wrong_usage(asked, words, wiper):
    code, out, err = wiper("rules", asked)
    assert (code, out) == (2, "")
    assert words in err
