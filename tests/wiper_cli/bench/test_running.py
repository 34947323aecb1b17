import json
from dataclasses import replace

import pytest
import torch

from wiper_cli.bench.cells import Cell, Store
from wiper_cli.bench.running import FEWEST, Ground, findings, ground_of, run, subject_of
from wiper_cli.images.splits import Part
from wiper_cli.rates import effectiveness
from wiper_cli.verdict import Problem

#: What may differ between two runs of one cell.
OF_THE_MOMENT = ("seconds", "cpu_seconds", "seconds_in_all", "peak_bytes", "environment", "history")


@pytest.fixture
def cell(badnet):
    return Cell(badnet, "wiper", settings=(("batch", 16), ("epochs", 2), ("lr", 0.5)), test_images=30)


def steady(outcome):
    kept = {key: value for key, value in outcome.items() if key not in OF_THE_MOMENT}
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in outcome.get("history", [])]
    return json.dumps([kept, epochs], sort_keys=True)


def test_an_outcome_says_everything(cell, place):
    found = run(cell, place)
    assert found == Store(place.results).read(cell)
    assert found["model"]["bn"] == "frozen"
    assert found["settings"]["epochs"] == 2
    assert found["parts"] == {"fit": 72, "select": 24, "report": 24}
    assert found["before"]["acc"]["n"] == found["after"]["acc"]["n"] == 30
    assert 0 < found["after"]["asr"]["n"] < 30
    low, high = found["after"]["asr"]["interval"]
    assert low <= found["after"]["asr"]["value"] <= high
    values = [found[when][key]["value"] for key in ("asr", "acc") for when in ("before", "after")]
    assert found["der"] == effectiveness(*values)
    # 72 images for the first salience, then two epochs of 4 batches of 16 and a look at the select part of 24.
    assert found["images_seen"] >= 72 + 2 * 64
    assert found["moved"]["linear.weight"]["largest"] > 0
    assert found["peak_bytes"]["host"] > 1e6
    assert found["environment"]["torch"] == torch.__version__
    assert found["twin"]["ra"]["n"] > 0


def test_two_runs_of_a_seed_agree_to_the_digit_and_another_seed_does_not(cell, place, tmp_path):
    subject_of.cache_clear()
    first = run(cell, place)
    subject_of.cache_clear()
    again = run(cell, replace(place, results=tmp_path / "again"))
    assert steady(first) == steady(again)
    other = run(replace(cell, seed=2), place)
    assert other["history"][0]["loss"] != first["history"][0]["loss"]


def test_watching_changes_nothing(cell, place):
    plain, watched = run(cell, place), run(replace(cell, watch=True), place)
    assert watched["after"] == plain["after"]
    assert watched["moved"] == plain["moved"]
    looks = watched["watched"]
    assert [look["epoch"] for look in looks] == [0, 1, 2]
    assert looks[0]["asr"] == plain["before"]["asr"]
    assert looks[-1]["asr"] == plain["after"]["asr"]
    assert looks[0]["low_units"] > 0


def test_a_method_that_refuses_is_an_outcome(place, badnet):
    found = run(Cell(badnet, "fine-tuning", settings=(("lr", 1e30),), test_images=30), place)
    assert "Training diverged" in found["refused"]
    assert "after" not in found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"specimen": "nowhere"}, "holds no specimen"),
        ({"file": "model.gguf"}, "has no file model.gguf"),
    ],
)
def test_a_fault_of_the_place_is_no_outcome(cell, place, change, sentence):
    with pytest.raises(Problem, match=sentence):
        run(replace(cell, **change), place)
    assert Store(place.results).read(replace(cell, **change)) is None


def test_rates_by_hand():
    class Fixed:
        """Answers with the class that stands in the first pixel."""

        def answers(self, images):
            return images[:, 0, 0, 0].long()

    def pictures(answers):
        return torch.tensor(answers, dtype=torch.uint8).reshape(-1, 1, 1, 1)

    labels = torch.tensor([0, 1, 1, 2, 2])
    target = torch.zeros(5, dtype=torch.long)
    test = Part(pictures([0, 1, 0, 2, 1]), labels)
    ground = Ground(test, ((pictures([0, 0, 0, 2, 1]), target, labels != 0),), 3)
    found = ground.measure(Fixed())
    assert {key: (share["value"], share["n"]) for key, share in found.items()} == {
        "acc": (3 / 5, 5),
        "asr": (2 / 4, 4),
        "ra": (1 / 4, 4),
        "base_rate": (1 / 4, 4),
    }
    assert ground.measure(Fixed(), first=2)["asr"] == {
        "value": 1.0,
        "n": 1,
        "interval": pytest.approx([0.2065, 1.0], abs=1e-4),
    }


def test_fewer_test_images_are_the_first_of_more(place, badnet):
    few, many = ground_of(badnet, 10, place), ground_of(badnet, 30, place)
    assert torch.equal(few.test.images, many.test.images[:10])
    assert torch.equal(few.triggered[0][0], many.triggered[0][0][:10])
    changed = (few.test.images != few.triggered[0][0]).flatten(2).any(2).any(1)
    assert bool(changed.all())


def test_a_clean_model_has_no_trigger(place, clean):
    found = run(Cell(clean, "clp", test_images=30), place)
    assert set(found["after"]) == {"acc"}
    assert found["der"] is None


def test_few_images_are_cut_in_proportion(place, badnet):
    _, parts = subject_of(badnet, "model.safetensors", 50, "folder", 1, place)
    assert [len(parts.fit), len(parts.select), len(parts.report)] == [30, 10, 10]
    assert FEWEST > 50


def test_without_labels_the_models_own_stand(place, badnet):
    classifier, parts = subject_of(badnet, "model.safetensors", 0, "model", 1, place)
    assert torch.equal(parts.fit.labels, classifier.logits(parts.fit.images).argmax(1))


@pytest.mark.parametrize(
    ("file", "bn"), [("model-folded.pt", "folded"), ("model.onnx", "folded"), ("model.pt", "frozen")]
)
def test_every_kind_of_file(cell, place, file, bn):
    found = run(replace(cell, file=file), place)
    assert found["model"]["bn"] == bn
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

    monkeypatch.setattr(running, "DETECTORS", ("max-margin",))
    monkeypatch.setattr("wiper_cli.audit.detection.detector", lambda name: Finds())
    for _ in range(2):
        suspects, (found,) = findings(cell, place, lambda *_: None)
        assert suspects[0] == 1
        assert (found.family, found.target, found.facts) == ("additive", 1, {"success": 0.75})
        assert torch.equal(found.parameters["pattern"], square.parameters["pattern"])
    assert calls == [cell.seed]


def test_a_metric_of_the_units(place, badnet):
    found = run(Cell(badnet, "am", "salience", test_images=30), place)
    units = len(found["clean"])
    assert len(found["triggered"]) == len(found["change"]) == units
    assert 0 <= found["precision"]["0.5"]["change"] <= 1
    assert len(found["attention"]["lowest"]) == 16
    assert found["rank_correlation_with_bs"] <= 1
    wrong = run(Cell(badnet, "amm", "salience", test_images=30), place)
    assert "the nearest is 'am'" in wrong["refused"]
