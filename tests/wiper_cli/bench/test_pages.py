import csv
import io
from dataclasses import replace

import pytest

from wiper_cli.bench import matrix
from wiper_cli.bench.cells import Store
from wiper_cli.bench.matrix import Attack, Grid, Scale, Table, Treatment, cells_of
from wiper_cli.bench.pages import COLUMNS, Standing, page, sheet

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


def share(value, n=200):
    return {"value": value, "n": n, "interval": [value - 0.01, value + 0.01]}


def outcome(acc, asr, ra, seconds=2.0):
    before = {"acc": share(0.9), "asr": share(0.99), "ra": share(0.01), "base_rate": share(0.02)}
    return {
        "before": before,
        "after": {"acc": share(acc), "asr": share(asr), "ra": share(ra), "base_rate": share(0.02)},
        "twin": {"ra": share(0.8)},
        "model": {"bn": "frozen"},
        "der": (0.99 - asr - max(0, 0.9 - acc) + 1) / 2,
        "seconds": seconds,
        "images_seen": 500,
        "peak_bytes": {"host": 3 * 10**8, "gpu": None},
        "parts": {"fit": 60, "select": 20, "report": 20},
        "head": "linear.weight",
        "moved": {"linear.weight": {"largest": 0.25, "over_one": 3}, "conv.weight": {"largest": 0.125}},
        "environment": {
            "cuda": None,
            "threads": 1,
            "cores": 2,
            "machine": "m",
            "python": "3.11",
            "torch": "2",
        },
        "device": "cpu",
    }


@pytest.fixture
def scale(tmp_path, monkeypatch):
    (tmp_path / "hand.toml").write_text(SUITE)
    scale = Scale(str(tmp_path / "hand.toml"), ("cifar10",), 200, {"kd": {"epochs": 30}})
    monkeypatch.setattr(matrix, "SCALES", {**matrix.SCALES, "hand": scale})
    return "hand"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def standing(store, scale, seeds=(1,), table=TABLE):
    return Standing.read(table, store, scale, seeds)


def badnet(scale, name, seeds=(1,)):
    return [c for c in cells_of(TABLE, scale, seeds) if "badnet" in c.specimen and c.name == name]


def rows(text, heading):
    part = text[text.index(f"## {heading}") :].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def test_the_papers_arrangement_with_its_number_beside_ours(store, scale):
    (cell,) = badnet(scale, "wiper")
    store.write(cell, outcome(0.85, 0.05, 0.7))
    text = page(TABLE, standing(store, scale))
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


def test_seeds_give_mean_and_spread(store, scale):
    for cell, asr in zip(badnet(scale, "wiper", (1, 2, 3)), (0.02, 0.04, 0.06), strict=True):
        store.write(cell, outcome(0.85, asr, 0.7))
    text = page(TABLE, standing(store, scale, (1, 2, 3)))
    assert rows(text, "By hand")[1][3:5] == ["85.00 ± 0.00 (83.20)", "4.00 ± 2.00 (5.03)"]
    assert "seeds 1, 2, 3 (mean ± standard deviation)" in text


def test_attacks_side_by_side_and_several_measures_in_one_place(store, scale):
    (cell,) = badnet(scale, "wiper")
    store.write(cell, outcome(0.85, 0.05, 0.7))
    measures = (
        "acc",
        "ra_of_ceiling",
        "der",
        "acc_lost",
        "speed",
        "memory",
        "moved",
        "head_moved",
        "over_one",
    )
    grid = replace(GRID, across=True, split=False, measures=measures, printed="")
    table = replace(TABLE, grids=(grid,))
    found = rows(page(table, standing(store, scale, table=table)), "By hand")
    assert found[0] == ["defence", "BadNet", "WaveNet", "mean (of so many)"]
    assert found[2] == [
        "WIPER", "85.00 / 87.5 / 94.5 / 5.00 / 250 / 300 / 0.2500 / 0.2500 / 3", "not run",
        "85.00 / 87.5 / 94.5 / 5.00 / 250 / 300 / 0.2500 / 0.2500 / 3 (1)",
    ]  # fmt: skip


def test_the_mean_takes_every_attack_once(store, scale):
    for seed, cell in enumerate(c for c in cells_of(TABLE, scale, (1, 2)) if c.name == "wiper"):
        if seed != 3:  # two seeds on one specimen, one on the other
            store.write(cell, outcome((0.8, 0.9, 0.6)[seed], 0.1, 0.7))
    grid = replace(GRID, across=True, split=False, measures=("acc", "asr"), printed="")
    table = replace(TABLE, grids=(grid,))
    found = rows(page(table, standing(store, scale, (1, 2), table)), "By hand")
    assert found[2] == ["WIPER", "85.00 ± 7.07 / 10.00 ± 0.00", "60.00 / 10.00", "72.50 / 10.00 (2)"]


def test_a_refusal_is_shown_with_its_reason(store, scale):
    (cell,) = badnet(scale, "kd")
    store.write(cell, {"refused": "Training diverged.", "environment": {}, "device": "cpu"})
    text = page(TABLE, standing(store, scale))
    assert rows(text, "By hand")[1][5] == "refused (50.17)"
    assert "- Refused (1): kd: Training diverged." in text


def test_a_scale_without_the_data_says_so(store, scale):
    table = replace(TABLE, grids=(replace(GRID, data="svhn", printed="table1"),))
    text = page(table, standing(store, scale, table=table))
    assert "has no svhn: nothing of it was run" in text
    assert rows(text, "By hand")[1][3] == "– (94.14)"


def test_a_setting_that_a_method_lacks_is_said(store, scale):
    table = replace(
        TABLE, grids=(replace(GRID, treatments=(Treatment("By AM", "clp", settings={"metric": "am"}),)),)
    )
    text = page(table, standing(store, scale, table=table))
    assert "- Cannot be run: By AM. clp has no setting 'metric'." in text


def test_the_sheet_has_a_line_for_every_cell(store, scale):
    (cell,) = badnet(scale, "wiper")
    store.write(cell, outcome(0.85, 0.05, 0.7))
    found = list(csv.DictReader(io.StringIO(sheet(TABLE, standing(store, scale)))))
    assert list(found[0]) == list(COLUMNS)
    assert [(line["treatment"], line["status"]) for line in found] == [
        ("Before", "before"), ("WIPER", "ran"), ("KD", "not run"),
        ("Before", "not run"), ("WIPER", "not run"), ("KD", "not run"),
    ]  # fmt: skip
    line = found[1]
    assert (line["acc"], line["asr"], line["asr_low"], line["ra_ceiling"]) == ("0.85", "0.05", "0.04", "0.8")
    assert (line["printed_acc"], line["printed_asr"]) == ("83.2", "5.03")
    assert line["cell"] == cell.id


@pytest.mark.slow
def test_figures_are_the_same_bytes_each_time(store):
    pytest.importorskip("matplotlib")
    from wiper_cli.bench.figures import draw
    from wiper_cli.bench.plans import TABLES

    def drawn(name):
        return draw(TABLES[name], standing(store, "tiny", table=TABLES[name]))

    assert drawn("figure1") == drawn("figure1")
    assert b"<svg" in drawn("figure1")
    assert drawn("figure8") is None
    for name, cells in (("figure5", 3), ("figure8", 2), ("figure3", 2)):
        for cell in cells_of(TABLES[name], "tiny")[:cells]:
            looks = [{"epoch": i, "acc": share(0.8), "asr": share(0.5 / (i + 1))} for i in range(3)]
            units = {"clean": [0.2, -0.1], "triggered": [-0.3, 0.4]}
            plain = [[0.5, 1.0], [0.0, 0.1]]
            maps = {"image": [[[0, 255], [9, 8]]] * 3, "lowest": plain, "others": plain}
            store.write(cell, outcome(0.8, 0.1, 0.7) | {"watched": looks, "attention": maps} | units)
        assert drawn(name) == drawn(name)
        assert b"<svg" in drawn(name)
