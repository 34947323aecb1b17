"""The one command for a GPU, as far as it can be tried without one."""

from __future__ import annotations

import csv
import importlib
import json
import signal
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretend_device import pretended

from wiper_cli.bench.matrix import Treatment
from wiper_cli.bench.plans import TABLES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
gpu = importlib.import_module("benchmarks.gpu")
gpu_page = importlib.import_module("benchmarks.gpu_page")
pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such clock on Windows")


@pytest.fixture
def setting(tmp_path):
    torch.set_num_threads(1)
    return gpu.Setting(tmp_path, device="cpu", smoke=True)


def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--work", str(tmp_path / "work")]) == 1
    assert "no CUDA device, so nothing was run" in capsys.readouterr().err
    assert gpu.main(["--work", str(tmp_path / "work"), "--device", "cpu"]) == 1
    assert "is not measured with --device cpu" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_time_that_is_up_ends_what_catches_every_error():
    before = signal.getsignal(signal.SIGALRM)

    def stubborn():
        while True:
            try:
                time.sleep(5)
            except Exception:
                pytest.fail("caught")

    with pytest.raises(gpu.TimeUp), gpu.bounded(0.05):
        stubborn()
    assert signal.getsignal(signal.SIGALRM) is before
    with pytest.raises(gpu.TimeUp), gpu.bounded(0):
        pytest.fail("begun without time")


def test_a_piece_that_stands_is_not_run_again_and_one_that_failed_is(setting, monkeypatch):
    runs = []

    def piece(name, *outcomes):
        left = list(outcomes)

        def run(_):
            runs.append(name)
            outcome = left.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return {"value": outcome}

        return run

    part = gpu.Pieces(
        1,
        {
            "one": piece("one", 1, 11),
            "two": piece("two", ValueError("no"), 2),
            "three": piece("three", gpu.TimeUp(), 3),
        },
    )
    with pytest.raises(gpu.TimeUp):
        part.run(setting)
    found = part.found(setting)
    assert (list(found["done"]), found["failed"], found["not_reached"]) == (
        ["one"],
        ["two: ValueError: no"],
        ["three"],
    )
    part.run(setting)
    assert runs == ["one", "two", "three", "two", "three"]
    assert part.found(setting)["not_reached"] == part.found(setting)["failed"] == []
    assert not part.found(replace(setting, smoke=False))["done"]


def test_the_rivals_are_those_of_the_highest_mean_der_in_the_committed_cells():
    ders = {}
    with (ROOT / "docs/results/field-tiny.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["section"] == "Every defence" and row["der"]:
                ders.setdefault(row["treatment"], []).append(float(row["der"]))
    mean = {title: statistics.fmean(values) for title, values in ders.items() if len(values) == 10}
    found = [one.title for one in gpu.rivals()]
    assert found == sorted(found, key=mean.__getitem__, reverse=True)
    assert len({one.name for one in gpu.rivals()}) == 5
    better = [title for title, value in mean.items() if value > mean[found[-1]] and title not in found]
    names = {one.title: one.name for one in TABLES["field"].grids[1].treatments}
    assert {names[title] for title in better} <= {"unlearn", "ai-lancet", *(one.name for one in gpu.rivals())}


def test_the_suites_are_the_whole_tables_at_full_size(tmp_path):
    whole = gpu.Setting(tmp_path)
    for name, attacks in (("field", 10), ("table2", 12)):
        part = gpu.parts()[name]
        missed = part.found(whole)["not_reached"]
        assert (len(missed), len(set(missed))) == (6 * attacks, 6 * attacks)
        cells = [cell for _, own in part.columns(whole).values() for cell in own.values()]
        assert {cell.test_images for cell in cells} == {10_000}
        assert all("resnet18" in cell.specimen for cell in cells)
    assert "BadNets: unlearn" in gpu.parts()["field"].found(whole)["not_reached"]


def test_the_command_runs_trains_and_goes_on(tmp_path, capsys, monkeypatch):
    torch.set_num_threads(1)
    small = {
        "tests": gpu.Pieces(1, {}),
        "agreement": gpu.Pieces(1, {"logits": gpu.same_logits}),
        "throughput": gpu.Pieces(1, {"forward": gpu.throughput("forward")}),
        "field": gpu.Suite(1, "field", TABLES["field"].grids[1], [Treatment("fine-tuning", "fine-tuning")]),
        "table2": gpu.Suite(1, "paper", TABLES["table2"].grids[0], [Treatment("Fine-tuning", "fine-tuning")]),
    }
    monkeypatch.setattr(gpu, "parts", lambda: small)
    given = ["--work", str(tmp_path), "--device", "cpu", "--smoke", "--minutes"]
    assert gpu.main([*given, "0"]) == 0
    nothing = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [len(part["not_reached"]) for part in nothing.values()] == [0, 1, 1, 1, 1]
    assert gpu.main([*given, "5"]) == 0
    assert "ACC" in capsys.readouterr().err
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert not [one for part in result["parts"].values() for one in part["not_reached"]]
    assert result["parts"]["agreement"]["done"]["logits"]["largest_difference"] == 0
    ratios = result["parts"]["throughput"]["done"]["forward"]["ratios"]
    assert all(ratio > 0 for ratio in ratios.values())
    column = result["parts"]["field"]["done"]["BadNets"]
    assert list(column) == ["Before", "fine-tuning"]
    assert set(column["fine-tuning"]) == {"acc", "asr", "ra", "seconds"}
    assert result["gpu"] is None
    with pytest.raises(ValueError, match="nothing of a GPU"):
        gpu_page.page(result)
    # What stands is not measured again, and no cell of a CPU is taken for one of a GPU.
    assert gpu.main([*given, "0"]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"] == result["parts"]
    other = gpu.Setting(tmp_path, device="cuda", smoke=True)
    assert small["field"].found(other)["not_reached"] == ["BadNets: fine-tuning"]


@pytest.mark.parametrize("decided", [True, False])
def test_the_result_of_a_gpu_is_written_where_it_is_committed(tmp_path, monkeypatch, decided):
    one = {"largest_difference": 0.5, "decided": ["here", "there"], "agree": decided}
    rest = {name: gpu.Pieces(1, {}) for name in ("tests", "throughput", "field", "table2")}
    small = {**rest, "agreement": gpu.Pieces(1, {"scan": lambda setting: one})}
    monkeypatch.setattr(gpu, "parts", lambda: small)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu, "PAGE", tmp_path / "gpu.md")
    with pretended():
        assert gpu.main(["--work", str(tmp_path / "work")]) == 1 - decided
        assert (tmp_path / "gpu.md").read_text().count("| scan | 0.5 | here | there |") == 1
        assert json.loads((tmp_path / "results" / "gpu.json").read_text())["gpu"] == "a pretend device"
        (tmp_path / "gpu.md").unlink()
        assert gpu.main(["--work", str(tmp_path / "work"), "--smoke"]) == 1 - decided
    assert not (tmp_path / "gpu.md").exists()
    assert json.loads((tmp_path / "work" / "gpu.json").read_text())["smoke"] is True


RESULT = {
    "gpu": "a GPU",
    "smoke": False,
    "minutes": 25,
    "environment": {"torch": "2"},
    "parts": {
        "tests": {
            "done": {"tests": {"tests": 9, "failures": 0, "errors": 0, "skipped": 1, "failed_tests": []}},
            "failed": [],
            "not_reached": [],
        },
        "agreement": {
            "done": {"scan": {"largest_difference": 0.125, "decided": ["here", "there"], "agree": True}},
            "failed": [],
            "not_reached": ["logits"],
        },
        "throughput": {
            "done": {"forward": {"operations_a_second": {"ours": 2e12}, "ratios": {"a": 0.5, "b": 0.25}}},
            "failed": [],
            "not_reached": [],
        },
        "field": {
            "done": {
                "BadNets": {"Before": {"acc": 9, "asr": 99, "ra": 1}, "unlearn": {"refused": "No."}},
                "LC": {"Before": {"acc": 8, "asr": 98, "ra": 2}},
            },
            "failed": [],
            "not_reached": ["LC: unlearn"],
        },
        "table2": {"done": {}, "failed": [], "not_reached": []},
    },
}  # fmt: skip


def test_the_page_shows_what_was_done_and_names_what_was_not():
    page = gpu_page.page(RESULT)
    for line in (
        "9 tests, 0 failed, 1 skipped.",
        "- agreement: logits",
        "- field: LC: unlearn",
        "| scan | 0.125 | here | there |",
        "| forward | 2.00 | 0.50 | 0.25 |",
        "| Before | 9.00 / 99.00 / 1.00 | 8.00 / 98.00 / 2.00 |",
        "| unlearn | refused | – |",
    ):
        assert line in page.splitlines()
    assert "Table 2" not in page
    assert "wrong" not in page


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("tests", {"failed_tests": ["one"]}, "tests: one failed"),
        ("tests", {"skipped": 9}, "tests: none ran"),
        ("agreement", {"agree": False}, "scan: the device decides otherwise than the CPU"),
    ],
)
def test_what_is_wrong_is_said(part, change, sentence):
    result = json.loads(json.dumps(RESULT))
    next(iter(result["parts"][part]["done"].values())).update(change)
    assert gpu_page.bad(result) == [sentence]
    assert f"- {sentence}" in gpu_page.page(result).splitlines()
    assert gpu_page.bad(RESULT) == []


def test_the_page_is_rendered_from_the_committed_result_and_is_not_there_without():
    result = gpu.RESULTS / "gpu.json"
    assert gpu_page.PAGE.exists() == result.exists()
    if result.exists():
        assert gpu_page.PAGE.read_text(encoding="utf-8") == gpu_page.page(json.loads(result.read_text()))
