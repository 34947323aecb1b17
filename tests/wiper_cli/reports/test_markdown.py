import re

import pytest
from markdown_it import MarkdownIt
from sample_reports import HOSTILE, hostile

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
    assert decoded.replace("\u200b", "") == dangerous


def test_nobody_is_mentioned():
    assert "@everyone" not in re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), md("@everyone #12"))


def test_plain_numbers_stay_readable():
    assert md("0.987 at (27, 27), class 0") == "0.987 at (27, 27), class 0"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_strings_build_nothing(kind):
    """As a reader of GitHub's Markdown sees it: nothing but what the renderer itself writes, and no word that a forge
    makes a link, a mention, a reference or a pictogram of afterwards."""
    for name in ("scan_explained", "purify_accepted", "refused"):
        text = render("markdown", [hostile(name, HOSTILE[kind])])
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
        words = ["".join(child.content for child in token.children or ()) for token in tokens]
        tokens += [child for token in tokens for child in token.children or ()]
        assert {token.type for token in tokens} <= {
            "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "html_block", "text",
            "table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open",
            "tr_close", "th_open", "th_close", "td_open", "td_close", "bullet_list_open", "bullet_list_close",
            "list_item_open", "list_item_close", "strong_open", "strong_close", "text_special", "softbreak",
        }  # fmt: skip
        blocks = "".join(token.content for token in tokens if token.type == "html_block")
        assert set(re.findall(r"<[^>]*>", blocks)) <= {"<details>", "</details>", "<summary>", "</summary>"}
        assert not set(re.sub("<[^>]*>", "", blocks)) & set("<>&")
        sought = r"\w://|\bwww\.\w|[@#]\w|[!&%~^]\d|\bGH-\d|:\w+:|\w@\w"
        assert not [word for word in words if re.search(sought, word, re.IGNORECASE)]
        columns = {len(row.strip(" |").split(" | ")) for row in text.splitlines() if row.startswith("| ")}
        assert columns <= {1, 2, 3}
