import json
from pathlib import Path

import pytest

from wiper_cli.zoo.recipe import Recipe
from wiper_cli.zoo.tables import page

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


def share(value):
    return {"value": value, "n": 100, "interval": [0, 1]}


def test_a_page():
    environment = {"cuda": None, "threads": 1}
    common = {"seconds": 12.4, "environment": environment, "precision": "float32"}
    clean = {"id": "c", "recipe": Recipe("colours", "a").as_dict(), "figures": {"acc": share(0.8)}, **common}
    figures = {"acc": share(0.79), "asr": share(0.999), "ra": share(0.001), "base_rate": share(0.02)}
    twin = {"id": "c", "acc": share(0.8), "asr": share(0.03), "ra": share(0.75)}
    bad = {"id": "b", "figures": figures, "twin": twin, "trigger": {}, **common}
    bad["recipe"] = Recipe("colours", "a", "badnet").as_dict()
    shown = page({"of": 3, "made": "2026-01-02", "specimens": [clean, bad]}, "mine")
    assert "| b | 79.0 | 80.0 | 99.9 | 3.0 | 2.0 | 0.1 | 75.0 | 12 |" in shown
    assert "| c | 80.0 | 12 |" in shown
    assert "2 of 3 specimens, made 2026-01-02" in shown
    assert "on a CPU (1 threads, float32)." in shown
    assert "Held out" not in shown
    judge = {**bad, "id": "j", "recipe": Recipe("colours", "a", "sticker").as_dict()}
    shown = page({"of": 3, "made": "2026-01-02", "specimens": [judge, clean, bad]}, "mine")
    tuned, _, judging = shown.partition("\nHeld out for judging")
    assert ("| b |" in tuned, "| j |" in tuned, "| j |" in judging) == (True, False, True)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("zoo-*.json")), ids=lambda path: path.stem)
def test_committed_pages_are_those_of_their_json(path):
    shown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert shown == page(json.loads(path.read_bytes()), path.stem.removeprefix("zoo-"))
