from dataclasses import replace

import pytest
import torch

from wiper_cli.bench.cells import Cell
from wiper_cli.bench.ground import subject_of
from wiper_cli.bench.running import findings, run
from wiper_cli.rates import effectiveness
from wiper_cli.verdict import Problem

#: What may differ between two runs of one cell.
OF_THE_MOMENT = ("seconds", "cpu_seconds", "peak_bytes")


@pytest.fixture
def cell(badnet):
    return Cell(badnet, "wiper", settings=(("batch", 16), ("epochs", 2), ("lr", 0.1)), test_images=30)


def steady(outcome):
    return {key: value for key, value in outcome.items() if key not in OF_THE_MOMENT}


def test_an_outcome_says_everything(cell, place):
    found = run(cell, place)
    assert (found, found["specimen"]["bn"]) == (place.store.read(cell), "frozen")
    assert (found["settings"]["epochs"], found["parts"]) == (2, {"fit": 72, "select": 24, "report": 24})
    assert found["before"]["acc"]["n"] == found["after"]["acc"]["n"] == 30
    assert 0 < found["after"]["asr"]["n"] < 30
    low, high = found["after"]["asr"]["interval"]
    assert low <= found["after"]["asr"]["value"] <= high
    values = [found[when][key]["value"] for key in ("asr", "acc") for when in ("before", "after")]
    assert found["der"] == effectiveness(*values)
    # 72 images for the first salience, then two epochs of 4 batches of 16 and a look at the select part of 24.
    assert found["images_seen"] >= 72 + 2 * 64
    assert found["moved"]["largest"] >= found["moved"]["head"]["largest"] > found["moved"]["head"]["mean"] > 0
    assert found["peak_bytes"]["host"] > 1e6
    assert (found["run"]["torch"], found["run"]["threads"]) == (torch.__version__, 1)
    assert found["specimen"]["twin"]["ra"]["n"] > 0


def test_two_runs_of_a_seed_agree_to_the_digit_and_another_seed_does_not(cell, place, tmp_path):
    subject_of.cache_clear()
    first = run(cell, place)
    subject_of.cache_clear()
    assert steady(first) == steady(run(cell, replace(place, results=tmp_path / "again")))
    assert run(replace(cell, seed=2), place)["edit"] != first["edit"]


def test_watching_changes_nothing(cell, place):
    plain, watched = run(cell, place), run(replace(cell, watch=True), place)
    assert (watched["after"], watched["edit"]) == (plain["after"], plain["edit"])
    looks = watched["watched"]
    assert ([look["epoch"] for look in looks], looks[0]["asr"]) == ([0, 1, 2], plain["before"]["asr"])
    assert looks[-1]["asr"] == plain["after"]["asr"]
    assert looks[0]["low_units"] > 0


def test_a_method_that_refuses_is_an_outcome(place, badnet):
    found = run(Cell(badnet, "fine-tuning", settings=(("lr", 1e30),), test_images=30), place)
    assert "Training diverged" in found["refused"]
    assert "after" not in found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"specimen": "nowhere"}, "holds no specimen"), ({"file": "model.gguf"}, "has no file model.gguf")],
)
def test_a_fault_of_the_place_is_no_outcome(cell, place, change, sentence):
    with pytest.raises(Problem, match=sentence):
        run(replace(cell, **change), place)
    assert place.store.read(replace(cell, **change)) is None


def test_a_clean_model_has_no_trigger(place, clean):
    found = run(Cell(clean, "clp", test_images=30), place)
    assert set(found["after"]) == {"acc"}
    assert "der" not in found


@pytest.mark.parametrize(
    ("file", "bn"), [("model-folded.pt", "folded"), ("model.onnx", "folded"), ("model.pt", "frozen")]
)
def test_every_kind_of_file(cell, place, file, bn):
    found = run(replace(cell, file=file), place)
    assert found["specimen"]["bn"] == bn
    assert "refused" not in found


def test_a_scan_is_kept_and_given_back(cell, place, monkeypatch):
    from wiper_cli.bench import running
    from wiper_cli.detectors.evidence import Evidence
    from wiper_cli.perturbations import Recovered

    calls = []
    square = Recovered("additive", 1, {"pattern": torch.full((3, 2, 2), 0.25)}, {"success": 0.75})

    class Finds:
        title = "Finds"

        def run(self, classifier, clean, progress, seed):
            calls.append(seed)
            return Evidence(
                "max-margin", True, statistic=9.0, threshold=3.0, fired=True, target=1,
                per_class=(0.0, 9.0, 0.0), suspects=(1,), recovered=(square,),
            )  # fmt: skip

    monkeypatch.setattr(running, "SCANNED", ("max-margin",))
    monkeypatch.setattr("wiper_cli.audit.detection.detector", lambda name: Finds())
    for _ in range(2):
        suspects, (found,) = findings(cell, place, lambda *_: None)
        assert (suspects[0], found.family, found.target, found.facts) == (1, "additive", 1, {"success": 0.75})
        assert torch.equal(found.parameters["pattern"], square.parameters["pattern"])
    assert calls == [cell.seed]
