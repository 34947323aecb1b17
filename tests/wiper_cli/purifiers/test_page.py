from pathlib import Path

from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.__main__ import markdown

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


def test_the_page_of_methods_is_what_the_settings_say():
    assert PAGE.read_text("utf-8") == markdown(), "run: python -m wiper_cli.purifiers > docs/methods.md"


def test_every_need_is_put_into_words():
    page = markdown()
    for name, kind in METHODS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
        needs = row.split("|")[3]
        assert ("triggered" in kind().needs) == ("carry the trigger" in needs)
        assert ("labels" in kind().needs) == ("labels" in needs)
