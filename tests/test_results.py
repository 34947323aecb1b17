"""What README and findings quote stands in the committed results."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
findings = importlib.import_module("benchmarks.findings")

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Rows of the README's table of methods → rows of table 2.
ROWS = {
    "before": "Before",
    "`unlearn`, the default": "unlearn",
    "`wiper`, the paper's constants": "WIPER",
    "`wiper`, `strong`": "wiper, strong",
    "`fine-tuning`, the paper's constants": "Fine-tuning",
    "`nad`, the paper's constants": "NAD",
    "`fine-pruning`, the paper's constants": "Fine-Pruning",
    "`i-bau`, the paper's constants": "IBAU",
    "`kd`, the paper's constants": "KD",
    "`sau`": "sau",
    "`anp`": "anp",
    "`clp`": "clp",
    "`tsbd`": "tsbd",
    "`ft-sam`": "ft-sam",
    "`fst`": "fst",
    "`npd`": "npd",
    "`ban`": "ban",
    "`bti-dbf`": "bti-dbf",
    "`lmr`": "lmr",
}
#: Rows of the README's table of the whole path → files of that result.
FILES = {
    "safetensors, `--seed 2`": "model.safetensors",
    "TorchScript": "model.pt",
    "ONNX, batch norm folded": "model.onnx",
}


def test_the_findings_are_rendered_from_the_committed_cells():
    page = findings.PAGE.read_text(encoding="utf-8")
    assert page == findings.render(findings.TEMPLATE.read_text(encoding="utf-8")), (
        "run: python -m benchmarks.findings"
    )


def test_the_readme_quotes_table_2():
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert len(rows) > 4
    for title, *quoted in rows:
        for measure, value in zip(("acc", "asr", "ra"), quoted, strict=True):
            found = findings.number(f"table2 | Every | {ROWS[title]} | {measure}")
            assert float(value) == pytest.approx(float(found), abs=0.051), (title, measure)


def test_the_readme_quotes_the_whole_path():
    result = json.loads((ROOT / "docs/results/end-to-end-cifar10.json").read_text(encoding="utf-8"))
    pair = r"([\d.]+) → ([\d.]+)"
    rows = re.findall(rf"^\| (.+?) \| {pair} \| {pair} \| {pair} \|$", README, re.MULTILINE)
    assert {title for title, *_ in rows} == set(FILES)
    for title, *quoted in rows:
        found = result["formats"][FILES[title]]["verify"]
        measured = [found[when][key] for key in ("acc", "asr", "ra") for when in ("before", "after")]
        assert [float(value) for value in quoted] == pytest.approx([100 * m for m in measured], abs=0.051)


def test_a_place_without_a_result_is_refused():
    for place in (
        "table2 | Every | no such method | acc",
        "table2 | Every | unlearn | no such measure",
        "table2 | Every | unlearn | acc | no such attack",
        "table2 | No such grid | unlearn | acc",
        "benchmarks/results/salience_cost.json | no.such.key",
    ):
        with pytest.raises(findings.Missing):
            findings.render(f"[[{place}]]")
    assert (
        findings.render("[[benchmarks/results/salience_cost.json | cost.settings.units]] units")
        == "128 units"
    )
