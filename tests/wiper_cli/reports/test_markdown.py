import re

import pytest

from wiper_cli.reports import render
from wiper_cli.reports.markdown import md


def test_ten_lines_then_folds(sample):
    head, *rest = render("markdown", [sample]).split("<details>")
    assert len(head.strip().splitlines()) <= 12
    assert rest
    assert sum(part.count("</details>") for part in rest) == len(rest)


def test_numbers_are_a_table(make):
    assert "| Trigger's success | 98.7% | 1.2% |" in render("markdown", [make("purify_accepted")])
    assert "| Clean accuracy | 93.1% |" in render("markdown", [make("scan_finding")])


@pytest.mark.parametrize(
    "dangerous",
    [
        "<b>", "[a](b)", "`a`", "*a*", "_a_", "a|b", "https://e.example", "# a", "- a", "1. a", "~~a~~", "&lt;", "$a$",
    ],
)  # fmt: skip
def test_markup_becomes_words(dangerous):
    written = md(dangerous)
    assert written != dangerous
    decoded = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), written)
    assert decoded == dangerous


def test_nobody_is_mentioned():
    assert "@everyone" not in re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), md("@everyone #12"))


def test_plain_numbers_stay_readable():
    assert md("0.987 at (27, 27), class 0") == "0.987 at (27, 27), class 0"


def test_hostile_names_build_nothing(make, sample_names):
    for name in sample_names:
        text = render("markdown", [make(name, hostile=True)])
        assert set(re.findall(r"<[^>]*>", text)) <= {"<details>", "</details>", "<summary>", "</summary>"}
        assert "](" not in text
        assert "@everyone" not in text
        assert text.count("<details>") == text.count("</details>")
