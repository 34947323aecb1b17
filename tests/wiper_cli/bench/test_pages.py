import csv
import io
from dataclasses import replace

import pytest

from wiper_cli.bench import matrix
from wiper_cli.bench.identity import identity
from wiper_cli.bench.matrix import Attack, Grid, Scale, Table, Treatment, cells_of
from wiper_cli.bench.pages import COLUMNS, page, sheet
from wiper_cli.bench.standing import Standing
from wiper_cli.bench.store import Store

SUITE = """
name = "hand"
[defaults]
data = "cifar10"
arch = "resnet10-patch-w4"
[[models]]
attack = "badnet"
[[models]]
attack = "wanet"
label = "strong"
planting = { cover = 0.05 }
"""
WIPER, KD = Treatment("WIPER", "wiper"), Treatment("KD", "kd")
GRID = Grid("By hand", (Attack("BadNet", "badnet"), Attack("WaveNet", "wanet")), (Treatment("Before"), WIPER, KD),
            printed="table2")  # fmt: skip
TABLE = Table("hand", "Numbers made by hand", (GRID,))


@pytest.fixture
def scale(tmp_path, monkeypatch):
    (tmp_path / "hand.toml").write_text(SUITE)
    own = Scale(str(tmp_path / "hand.toml"), ("cifar10",), 200, {"kd": {"epochs": 30}})
    monkeypatch.setattr(matrix, "SCALES", {**matrix.SCALES, "hand": own})
    return "hand"


@pytest.fixture
def store(tmp_path, scale):
    return Store(tmp_path / "results", scale)


def standing(store, seeds=(1,), table=TABLE, zoo=None):
    return Standing.read(table, store, seeds, zoo=zoo)


def badnet(scale, name, seeds=(1,)):
    return [c for c in cells_of(TABLE, scale, seeds) if "badnet" in c.specimen and c.name == name]


def rows(text, heading):
    part = text[text.index(f"## {heading}") :].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def test_the_papers_arrangement_with_its_number_beside_ours(store, scale, by_hand):
    (cell,) = badnet(scale, "wiper")
    by_hand(store, cell)
    text = page(TABLE, standing(store))
    found = rows(text, "By hand")
    assert found[0] == ["attack", "Before ACC", "Before ASR", "WIPER ACC", "WIPER ASR", "KD ACC", "KD ASR"]
    assert found[1] == [
        "BadNet", "90.00 (87.42)", "99.00 (99.50)", "85.00 (83.20)", "5.00 (5.03)", "not run (50.17)", "– (5.46)",
    ]  # fmt: skip
    assert found[2] == [
        "WaveNet", "not run (85.87)", "– (97.68)", "not run (82.59)", "– (5.81)", "not run (51.87)", "– (7.55)",
    ]  # fmt: skip
    assert "1 of 4 cells stand." in text
    assert "Nothing was run on cifar10-resnet10-patch-w4-wanet-strong-s1." in text
    assert "Shortened at this scale: kd (paper) epochs 30." in text
    assert "WaveNet is cifar10-resnet10-patch-w4-wanet-strong-s1 here: cover 0.05." in text
    assert "200 test images" in text
    assert "60 to fit / 20 to select / 20 to report" in text
    assert "1. The caption speaks of six attacks" in text


def test_seeds_give_mean_and_spread(store, scale, by_hand):
    for cell, asr in zip(badnet(scale, "wiper", (1, 2, 3)), (0.02, 0.04, 0.06), strict=True):
        by_hand(store, cell, asr=asr)
    text = page(TABLE, standing(store, (1, 2, 3)))
    assert rows(text, "By hand")[1][3:5] == ["85.00 ± 0.00 (83.20)", "4.00 ± 2.00 (5.03)"]
    assert "seeds 1, 2, 3 (mean ± standard deviation)" in text


def test_attacks_side_by_side_and_several_measures_in_one_place(store, scale, by_hand):
    (cell,) = badnet(scale, "wiper")
    by_hand(store, cell)
    measures = (
        "acc", "ra_of_ceiling", "der", "acc_lost", "speed", "memory", "moved", "head_moved", "over_one",
    )  # fmt: skip
    grid = replace(GRID, across=True, split=False, measures=measures, printed="")
    table = replace(TABLE, grids=(grid,))
    found = rows(page(table, standing(store, table=table)), "By hand")
    assert found[0] == ["defence", "BadNet", "WaveNet", "mean (of so many)"]
    assert found[2] == [
        "WIPER", "85.00 / 87.5 / 94.5 / 5.00 / 250 / 300 / 0.3750 / 0.2500 / 3", "not run",
        "85.00 / 87.5 / 94.5 / 5.00 / 250 / 300 / 0.3750 / 0.2500 / 3 (1)",
    ]  # fmt: skip


def test_the_mean_takes_every_attack_once(store, scale, by_hand):
    for seed, cell in enumerate(c for c in cells_of(TABLE, scale, (1, 2)) if c.name == "wiper"):
        if seed != 3:  # two seeds on one specimen, one on the other
            by_hand(store, cell, (0.8, 0.9, 0.6)[seed], 0.1)
    grid = replace(GRID, across=True, split=False, measures=("acc", "asr"), printed="")
    table = replace(TABLE, grids=(grid,))
    found = rows(page(table, standing(store, (1, 2), table)), "By hand")
    assert found[2] == ["WIPER", "85.00 ± 7.07 / 10.00 ± 0.00", "60.00 / 10.00", "72.50 / 10.00 (2)"]


def test_a_refusal_is_shown_with_its_reason(store, scale):
    (cell,) = badnet(scale, "kd")
    store.write(cell, {"refused": "Training diverged.", **identity(cell)})
    text = page(TABLE, standing(store))
    assert rows(text, "By hand")[1][5] == "refused (50.17)"
    assert "- Refused (1): kd: Training diverged." in text


def test_a_scale_without_the_data_says_so(store, scale):
    table = replace(TABLE, grids=(replace(GRID, data="svhn", printed="table1"),))
    text = page(table, standing(store, table=table))
    assert "has no svhn: nothing of it was run" in text
    assert rows(text, "By hand")[1][3] == "– (94.14)"


def test_a_setting_that_a_method_lacks_is_said(store, scale):
    table = replace(
        TABLE, grids=(replace(GRID, treatments=(Treatment("By AM", "clp", settings={"metric": "am"}),)),)
    )
    text = page(table, standing(store, table=table))
    assert "- Cannot be run: By AM. clp has no setting 'metric'." in text


def test_the_sheet_has_a_line_for_every_cell(store, scale, by_hand):
    (cell,) = badnet(scale, "wiper")
    by_hand(store, cell)
    found = list(csv.DictReader(io.StringIO(sheet(TABLE, standing(store)))))
    assert list(found[0]) == list(COLUMNS)
    assert [(line["treatment"], line["status"]) for line in found] == [
        ("Before", "before"), ("WIPER", "ran"), ("KD", "not run"),
        ("Before", "not run"), ("WIPER", "not run"), ("KD", "not run"),
    ]  # fmt: skip
    line = found[1]
    assert (line["acc"], line["asr"], line["asr_low"], line["ra_ceiling"]) == (
        "0.85", "0.05", "0.0273823", "0.8",
    )  # fmt: skip
    assert (line["printed_acc"], line["printed_asr"], line["cell"]) == ("83.2", "5.03", cell.id)


def test_what_has_changed_is_marked_and_said(store, scale, by_hand, tmp_path):
    wiper, kd = (badnet(scale, name)[0] for name in ("wiper", "kd"))
    by_hand(store, wiper)
    by_hand(store, kd, settings={**kd.resolved(), "lr": 0.5})
    text = page(TABLE, standing(store))
    assert rows(text, "By hand")[1] == [
        "BadNet", "90.00 (87.42)", "99.00 (99.50)", "85.00 (83.20)", "5.00 (5.03)", "85.00† (50.17)", "5.00† (5.46)",
    ]  # fmt: skip
    assert "- † Measured before a change, and to be run again: kd lr was 0.5 and is 0.01 (1).\n" in text
    lines = list(csv.DictReader(io.StringIO(sheet(TABLE, standing(store)))))
    assert [line["status"] for line in lines[:3]] == ["before", "ran", "stale; kd lr was 0.5 and is 0.01"]
    by_hand(store, kd, code="0")
    table = replace(TABLE, grids=(replace(GRID, across=True, split=False, measures=("acc",), printed=""),))
    assert rows(page(table, standing(store, table=table)), "By hand")[3] == [
        "KD", "85.00†", "not run", "85.00† (1)",
    ]  # fmt: skip
    by_hand(store, kd)
    assert "†" not in page(TABLE, standing(store))
    (tmp_path / wiper.specimen).mkdir()
    (tmp_path / wiper.specimen / "manifest.json").write_text(
        '{"files": {"model.safetensors": {"sha256": "cd"}}}'
    )
    assert rows(page(TABLE, standing(store, zoo=tmp_path)), "By hand")[1][1] == "90.00† (87.42)"
