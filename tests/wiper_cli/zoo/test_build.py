import os
from dataclasses import replace

import pytest

from wiper_cli import scratch
from wiper_cli.verdict import Problem
from wiper_cli.zoo.build import Place, build, is_built, table
from wiper_cli.zoo.recipe import Recipe

CLEAN = Recipe("colours", "resnet10-patch-w4", schedule={"epochs": 1, "batch": 16, "lr": 0.05})
BADNET = replace(CLEAN, attack="badnet", poisoning={"rate": 0.2})
WRONG = replace(CLEAN, attack="badnet", poisoning={"target": 9})


@pytest.fixture
def place(folder, tmp_path):
    return Place(tmp_path / "zoo", folder.parent, device="cpu")


def test_what_stands_is_skipped_and_a_failure_stops_nothing(place):
    said, moved = [], []
    failures = build([CLEAN, WRONG, BADNET], place, say=said.append, progress=lambda *p: moved.append(p))
    assert [str(problem) for problem in failures] == [
        f"{WRONG.id} cannot be made: The target 9 is outside the 3 classes 0..2."
    ]
    assert said[0].startswith(f"[1/3] {CLEAN.id}: ACC ")
    assert moved[-1] == ("build", 3, 3)
    assert (place.out / "clean" / "colours" / "red").is_dir()
    before = (place.out / CLEAN.id / "manifest.json").stat().st_mtime_ns
    said.clear()
    assert (build([CLEAN, BADNET], place, say=said.append), said) == ([], ["2 of 2 stand already."])
    assert (place.out / CLEAN.id / "manifest.json").stat().st_mtime_ns == before


def test_another_recipe_of_the_same_name_is_not_taken_for_this_one(place):
    build([CLEAN], place)
    assert is_built(CLEAN, place.out)
    with pytest.raises(Problem, match="made from another recipe \\(schedule differ\\)"):
        is_built(replace(CLEAN, schedule={"epochs": 2}), place.out)


def test_what_was_left_half_made_is_made_again(place):
    half = place.out / f".wiper-{CLEAN.id}"
    place.out.mkdir(exist_ok=True)
    claim = scratch.Claim(half)  # by a run that was killed
    scratch._make(claim)
    claim.files.mkdir()
    os.close(claim.lock)
    assert build([CLEAN], place) == []
    assert sorted(path.name for path in place.out.iterdir()) == ["clean", CLEAN.id]


@pytest.mark.slow
def test_several_at_once_give_the_same_models(place, tmp_path):
    build([CLEAN, BADNET], place)
    beside = replace(place, out=tmp_path / "beside")
    assert build([CLEAN, WRONG, BADNET], beside, jobs=2) != []
    for recipe in (CLEAN, BADNET):
        weights = [(p.out / recipe.id / "model.safetensors").read_bytes() for p in (place, beside)]
        assert weights[0] == weights[1]


def test_the_table_holds_what_is_built(place):
    build([CLEAN], place)
    found = table([CLEAN, BADNET], place.out)
    assert (found["of"], [row["id"] for row in found["specimens"]]) == (2, [CLEAN.id])
    assert "history" not in found["specimens"][0]
