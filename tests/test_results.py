"""What README and findings quote stands in the committed results."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from formats.tensors import from_bytes
from wiper_cli.bench.identity import changes
from wiper_cli.bench.matrix import cells_of
from wiper_cli.bench.pages import files
from wiper_cli.bench.plans import TABLES
from wiper_cli.bench.standing import Standing
from wiper_cli.bench.store import Store
from wiper_cli.detectors import DETECTORS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
findings = importlib.import_module("benchmarks.findings")
acceptance_pages = importlib.import_module("benchmarks.acceptance_pages")
probe_power = importlib.import_module("benchmarks.probe_power")

STORE = Store(findings.RESULTS)
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


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_page_is_rendered_from_the_committed_cells(table):
    if table.drawn:
        pytest.importorskip("matplotlib")
    rendered = files(table, Standing.read(table, STORE, (1,)))
    assert set(rendered) == {path.name for path in findings.RESULTS.glob(f"{table.name}-tiny.*")}
    for name, data in rendered.items():
        assert (findings.RESULTS / name).read_bytes() == data, (
            f"{name}: run wiper bench {table.name} -o docs/results --render-only"
        )


def _asked(asr, **fired):
    probes = {name: {"statistic": 1.0, "fired": True, "target": target} for name, target in fired.items()}
    return {
        "share": 0.5,
        "accepted": not fired,
        "recovered": 0.25,
        "anew": None,
        "scan": {"a detector": {"statistic": 2.0, "fired": True, "target": 2}},
        "asr": {"value": asr, "n": 100},
        "probes": probes | {"silent one": {"statistic": 0.0, "fired": False, "target": 2}},
    }


def test_a_probe_sees_a_weakened_backdoor_where_it_names_its_class():
    levels = {"60 %": _asked(0.6, right=2, none=None), "15 %": _asked(0.15, wrong=3), "outcome": _asked(0.02)}
    line = {"specimen": "one", "kind": "text", "held_out": False, "target": 2, "levels": levels}
    names = ("right", "none", "silent one", "gone")
    assert [probe_power.seen(levels["60 %"], 2, name) for name in names] == [True, True, False, False]
    assert not probe_power.seen(levels["15 %"], 2, "wrong")
    assert probe_power.seen(levels["outcome"], 2, "a detector")
    page = probe_power.page([line])
    assert "| **refused** | 1 of 1 | 0 of 0 | 1 of 1 | 0 of 1 |" in page
    assert "| one | 60.0 | 25.0 | – | silent | refused |" in page
    assert "| one | 2.0 | 25.0 | – | silent | accepted |" in page


def test_the_way_to_an_outcome_is_straight():
    way = probe_power.Way({"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 2.0])}, {"w": "F32"})
    assert from_bytes(way.at(0.25).tensors["w"].data, "F32").tolist() == [0.25, 0.5]


def test_the_page_of_the_probes_is_rendered_from_the_committed_lines():
    page = probe_power.PAGE.read_text(encoding="utf-8")
    assert page == probe_power.page(probe_power.committed()), "run: python -m benchmarks.probe_power"


def test_the_committed_cells_are_in_order_whole_and_all_that_there_is(tmp_path):
    assert not STORE.damaged()
    copy = Store(tmp_path)
    copy.path.write_bytes(STORE.path.read_bytes())
    cells = copy.cells()
    copy.write(cells[0], copy.read(cells[0]))
    copy.merge()
    assert copy.path.read_bytes() == STORE.path.read_bytes()
    wanted = {cell for table in TABLES.values() for cell in cells_of(table, "tiny")}
    assert {*wanted, *(cell.scan() for cell in wanted if cell.uses_scan)} == set(cells)
    others = {
        "cells-tiny.jsonl", "zoo-tiny.json", "zoo-tiny.md", "end-to-end-cifar10.json", "detection.md", "scan-cost.md",
        "detection.svg", "scan-cost.svg", "acceptance.md", "removal.md", "photo.md", "fuzzing.md", "fleet.md", "gpu.md",
        "probe-power.md",
        "README.md",
    }  # fmt: skip
    names = {path.name for path in findings.RESULTS.iterdir() if path.is_file()} - others
    assert {name.partition("-tiny.")[0] for name in names} == set(TABLES)


def test_the_costs_of_a_scan_are_those_of_todays_plans():
    scan_cost = importlib.import_module("benchmarks.scan_cost")
    committed = json.loads((ROOT / "benchmarks/results/scan_cost.json").read_text(encoding="utf-8"))
    assert scan_cost.PAGE.read_text(encoding="utf-8") == scan_cost.page(committed)
    for row in committed["passes"]:
        for effort in scan_cost.EFFORTS:
            assert row[effort] == scan_cost.passes(effort, row["classes"], row["side"])


def test_the_throughput_of_a_fleet_is_rendered_from_its_result():
    fleet = importlib.import_module("benchmarks.fleet")
    results = (fleet.RESULT, importlib.import_module("benchmarks.fleet_lost").RESULT)
    committed, lost = (json.loads(result.read_text(encoding="utf-8")) for result in results)
    assert fleet.PAGE.read_text(encoding="utf-8") == fleet.page(committed, lost), (
        "run: python -m benchmarks.fleet --page"
    )
    count = lost["settings"]["models"]
    assert (lost["verdicts"], lost["twice"], lost["as_expected"], lost["digests"]) == (count, 0, count, count)


def test_a_change_that_was_shown_to_alter_nothing_can_be_vouched_for(tmp_path):
    vouch = importlib.import_module("benchmarks.vouch").vouch
    store = Store(tmp_path)
    cell, other = STORE.cells()[:2]
    settings = STORE.read(cell)["settings"]
    first, *rest = settings
    store.write(cell, {**STORE.read(cell), "code": "0", "settings": {key: settings[key] for key in rest}})
    store.write(other, {**STORE.read(other), "settings": {first: "another"}})
    store.merge()
    scan = next(one for one in STORE.cells() if one.kind == "scan")
    old = {name: {**own, "gone": 900.0} for name, own in STORE.read(scan)["settings"].items()}
    store.write(scan, {**STORE.read(scan), "settings": old})
    store.merge()
    assert vouch(store, "moved") == 3
    assert changes(scan, store.read(scan)) == ()
    found = store.read(cell)
    assert changes(cell, found) == ()
    assert (found["run"]["code"], found["after"]) == ("moved", STORE.read(cell)["after"])
    assert all(first in change for change in changes(other, store.read(other)))
    assert vouch(store, "moved") == 0


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


def test_a_fault_that_no_test_notices_is_explained():
    files = json.loads((ROOT / "benchmarks/results/mutation.json").read_text())["files"]
    assert min(found["killed"] for found in files.values()) > 90
    assert not [one for found in files.values() for one in found["survived"] if not one["reason"]]


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


def test_detection_is_rendered_from_the_committed_lines_and_its_rate_is_the_one_that_ships():
    detection = importlib.import_module("benchmarks.detection")
    result = json.loads((ROOT / "benchmarks/results/detection.json").read_text(encoding="utf-8"))
    lines = result["lines"]
    assert detection.PAGE.read_text(encoding="utf-8") == detection.page(lines, result["judged"])
    shipped = json.loads(detection.RATES.read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(detection.known_rates(lines)))
    assert all(set(line["detectors"]) == set(shipped[0]["detectors"]) for line in lines + result["judged"])
    assert not {line["specimen"] for line in lines} & {line["specimen"] for line in result["judged"]}


def _outcome(accepted, asr, twin=0.02, **more):
    def rates(asr):
        return {name: {"value": share, "n": 100} for name, share in (("acc", 0.8), ("asr", asr), ("ra", 0.7))}

    before = rates(0.9) | {"base_rate": {"value": 0.05, "n": 100}}
    rounds = [{"kept": True, "reason": "Because.", "outcome_fired": []}]
    line = {
        "specimen": "one",
        "kind": "bar",
        "held_out": False,
        "accepted": accepted,
        "detectors": list(DETECTORS),
        "rounds": rounds,
        "seconds": 9,
    }
    return (
        line | {"before": before, "after": rates(asr), "twin": None if twin is None else rates(twin)} | more
    )


@pytest.mark.parametrize(
    ("outcome", "cell"),
    [
        (_outcome(True, 0.119), "accepted, gone"),
        (_outcome(True, 0.121), "accepted, not gone"),
        (_outcome(True, 0.149, twin=None), "accepted, gone"),
        (_outcome(False, 0.151, twin=None), "refused, not gone"),
        (_outcome(False, 0.30, twin=0.25), "refused, gone"),
    ],
)
def test_an_outcome_is_gone_within_ten_points_of_the_twin_or_else_of_the_base_rate(outcome, cell):
    assert acceptance_pages.cell(outcome) == cell
    assert ("; ASR 90.0 → " in acceptance_pages.acceptance([outcome])) == (cell != "accepted, gone")


def test_kinds_that_are_held_out_stand_in_a_table_of_their_own():
    lines = [
        _outcome(True, 0.5),
        _outcome(True, 0.02, kind="dots", held_out=True),
        _outcome(True, 0.0, kind="clean"),
    ]
    page = acceptance_pages.acceptance(lines)
    tuned, held = page.split("## Kinds")[1:]
    assert "| bar | 0 | 1 | 0 | 0 |" in tuned
    assert "accepted: 1 of 1" in tuned
    assert "one: accepted, not gone; ASR 90.0 → 50.0, floor 2.0. Because." in tuned
    assert "| dots | 1 | 0 | 0 | 0 |" in held
    assert "accepted: 0 of 1" in held
    assert (
        "in which nothing was planted, the scan found nothing in 0, and these were left as they are; 1 were"
        in held
    )


def test_what_was_not_tried_says_so_in_its_row():
    page = acceptance_pages.removal(
        [_outcome(False, 0.9, untried=True), _outcome(False, 0.5), _outcome(True, 0.0)]
    )
    ends = [line.rsplit("|", 4)[1:-1] for line in page.splitlines() if line.startswith("| one |")]
    assert [[part.strip() for part in end] for end in ends] == [
        ["0", "not tried", "9"],
        ["1", "no", "9"],
        ["1", "yes", "9"],
    ]


def test_what_a_change_made_a_thing_of_the_past_is_told_and_not_counted():
    page = acceptance_pages.acceptance(
        [_outcome(True, 0.0), _outcome(False, 0.0, superseded="the rule was mended.")]
    )
    counted, past = page.split("## Before a change")
    assert "| all | 1 | 0 | 0 | 0 |" in counted
    assert "one: refused, gone; ASR 90.0 → 0.0, floor 2.0. Because. Since then: the rule was mended." in past


def test_what_fewer_detectors_looked_at_is_marked():
    before = _outcome(True, 0.02, detectors=list(DETECTORS)[:-1])
    assert "| one † |" in acceptance_pages.removal([before])
    assert "| one † |" not in acceptance_pages.removal([_outcome(True, 0.02)])
    unseen = [{"kept": True, "reason": "Because."}]
    assert "| one † |" in acceptance_pages.removal([_outcome(True, 0.02, rounds=unseen)])
    assert "| one † |" not in acceptance_pages.removal([_outcome(True, 0.02, rounds=unseen, untried=True)])


def test_the_acceptance_pages_are_rendered_from_the_committed_lines():
    for name, text in acceptance_pages.pages().items():
        assert (findings.RESULTS / name).read_text(encoding="utf-8") == text, (
            "run: python -m benchmarks.acceptance_pages"
        )


def test_the_page_on_photographs_is_rendered_from_the_committed_scans():
    photo = importlib.import_module("benchmarks.photo")
    result = json.loads((ROOT / "benchmarks/results/photo.json").read_text(encoding="utf-8"))
    assert photo.PAGE.read_text(encoding="utf-8") == photo.page(result)


def test_the_page_on_fuzzing_is_rendered_from_the_committed_record():
    campaign = importlib.import_module("tools.campaign")
    committed = campaign.read(campaign.RECORD)
    assert campaign.PAGE.read_text(encoding="utf-8") == campaign.page(committed)
    assert not [
        fault for one in committed["targets"].values() for fault in one["faults"] if not fault["mended"]
    ]


def test_the_readme_quotes_the_false_acceptances():
    (found,) = re.findall(r"after (\d+) of (\d+) acceptances it still worked", " ".join(README.split()))
    rate = acceptance_pages.outlived()
    assert tuple(map(int, found)) == (rate.hits, rate.n)
    lines = acceptance_pages.current(acceptance_pages.committed())
    tried = {line["specimen"]: line for line in lines if not line.get("untried")}
    left = {
        name: " of ".join(f"{acceptance_pages.value(line, when, 'asr'):.0f}" for when in ("after", "before"))
        for name, line in tried.items()
        if not acceptance_pages.honest(line)
    }
    assert all(tried[name]["accepted"] for name in left)
    assert len(left) == 17
    assert [name for name in left if acceptance_pages.works(tried[name], "after")] == ["frame-planted"]
    said = " ".join(README.split())
    assert f"a frame, of which {left['frame-planted']} % were left" in said
    assert "Five of the seventeen had been refused" in said
    before = [
        acceptance_pages.cell(line)
        for line in acceptance_pages.committed()
        if "up to five" in line.get("superseded", "")
    ]
    assert before == ["refused, gone"] * 5
    assert not any(map(acceptance_pages.earlier, tried.values()))


def test_the_readme_shows_every_kind_that_is_held_out():
    rows = re.findall(r"^\| (\w+) \| ([\d.]+ → [\d.]+) \| ([\d.]+) \| ([a-z, ]+) \|$", README, re.MULTILINE)
    measured = [
        (
            line["kind"],
            " → ".join(f"{acceptance_pages.value(line, when, 'asr'):.1f}" for when in ("before", "after")),
            f"{acceptance_pages.floor(line):.1f}",
            "written" if line["accepted"] else "not seen, not tried" if line.get("untried") else "refused",
        )
        for line in acceptance_pages.current(acceptance_pages.committed())
        if line["held_out"]
    ]
    assert rows == measured


def test_no_specimen_that_is_held_out_is_purified_without_judge(tmp_path, monkeypatch):
    recipe = {
        "data": "cifar10",
        "arch": "resnet10-patch-w16",
        "attack": "shape",
        "parameters": {"form": "dots"},
    }
    manifest = {
        "format": "wiper-specimen/1",
        "recipe": {**recipe, "planting": {}},
        "mean": [0.5],
        "std": [0.5],
    }
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots" / "manifest.json").write_text(json.dumps(manifest))
    given = [
        "acceptance",
        str(tmp_path),
        "--root",
        str(tmp_path),
        "--work",
        str(tmp_path / "work"),
        "--only",
        "dots",
    ]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match="dots: held out for judging; give --judge"):
        importlib.import_module("benchmarks.acceptance").main()
