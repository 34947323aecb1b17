import pytest
import torch

from wiper_cli.bench.cells import Cell
from wiper_cli.bench.ground import ground_of, subject_of
from wiper_cli.bench.running import run
from wiper_cli.bench.units import attention, how_many, lowest, scored
from wiper_cli.salience import METRICS


@pytest.fixture
def found(place, badnet):
    return scored(
        "am", *subject_of(badnet, "model.safetensors", 0, "folder", 1, place), ground_of(badnet, 30, place)
    )


def test_values_are_those_of_the_metric_on_the_fit_part_and_on_triggered_images(found, place, badnet):
    classifier, clean = subject_of(badnet, "model.safetensors", 0, "folder", 1, place)
    weight = classifier.head()[0]

    def values(images, labels):
        return METRICS["am"](*classifier.features(images), labels, weight)

    assert found["clean"] == values(clean.fit.images, clean.fit.labels).tolist()
    stamped, goal, counts = ground_of(badnet, 30, place).triggered[0]
    assert found["triggered"] == values(stamped[counts], goal[counts]).tolist()
    assert found["images_seen"] == len(clean.fit)
    assert -1 <= found["rank_correlation"] <= 1
    assert -1 <= found["rank_correlation_with_bs"] < 1


def test_precision_is_the_share_of_the_lowest_units_among_those_that_the_trigger_moves_most(
    found, place, badnet
):
    classifier, _ = subject_of(badnet, "model.safetensors", 0, "folder", 1, place)
    ground = ground_of(badnet, 30, place)
    stamped, _, counts = ground.triggered[0]
    plain, moved = (classifier.features(images[counts])[0] for images in (ground.test.images, stamped))
    change = (moved - plain).double().abs().mean(0)
    low, high = torch.tensor(found["clean"]).argsort(), change.argsort(descending=True)
    half = len(change) // 2
    shared = set(low[:half].tolist()) & set(high[:half].tolist())
    assert found["precision"]["0.5"]["change"] == len(shared) / half


def test_where_the_lowest_tenth_and_the_others_look(found, place, badnet):
    classifier, _ = subject_of(badnet, "model.safetensors", 0, "folder", 1, place)
    stamped, _, counts = ground_of(badnet, 30, place).triggered[0]
    assert found["attention"] == attention(classifier, stamped[counts][:1], torch.tensor(found["clean"]))
    assert found["attention"]["image"] == stamped[counts][0].tolist()
    active = classifier.features(stamped[counts][:1])[0][0] > 0
    low = lowest(torch.tensor(found["clean"]), how_many(found["clean"]))
    for name, units in {"lowest": low, "others": ~low}.items():
        assert torch.tensor(found["attention"][name]).shape == (16, 16)
        # Units that are all silent on the image look nowhere.
        assert torch.tensor(found["attention"][name]).max() == float(active[units].any())
    assert active[~low].any()


def test_a_model_without_a_trigger_has_clean_values_only(place, clean):
    found = scored(
        "am", *subject_of(clean, "model.safetensors", 0, "folder", 1, place), ground_of(clean, 30, place)
    )
    assert not {"triggered", "precision", "attention"} & set(found)


def test_a_cell_keeps_what_tables_show_and_values_and_maps_only_where_a_figure_draws_them(
    place, badnet, monkeypatch
):
    cell = Cell(badnet, "am", "salience", test_images=30)
    drawn = {"clean", "triggered", "attention"}
    found = run(cell, place)
    assert 0 <= found["precision"]["0.5"]["change"] <= 1
    assert not drawn & set(found)
    monkeypatch.setattr("wiper_cli.bench.plans.drawn", lambda cell, scale: True)
    assert drawn <= set(run(cell, place))


def test_a_mistyped_metric_gives_the_nearest(place, badnet):
    found = run(Cell(badnet, "amm", "salience", test_images=30), place)
    assert "the nearest is 'am'" in found["refused"]
