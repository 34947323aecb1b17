"""Which kinds judge, and that nothing that runs experiments takes them by mistake."""

import json
from dataclasses import replace

import pytest

from wiper_cli.verdict import Problem
from wiper_cli.zoo import suites
from wiper_cli.zoo.build import Place, build, make_one
from wiper_cli.zoo.holdouts import KINDS, held_out, is_held_out, kinds_of
from wiper_cli.zoo.recipe import CLEAN, Recipe

PLAIN = Recipe("colours", "resnet10-patch-w4", schedule={"epochs": 1, "batch": 16, "lr": 0.05})
TUNED = replace(PLAIN, attack="shape", poisoning={"rate": 0.2})
HELD = replace(TUNED, parameters={"form": "cross", "length": 3}, label="cross")


def test_the_choice_is_this_one_for_good():
    """Fixed by the names before anything was measured: whoever changes it has looked at the judges."""
    assert [kind for kind in KINDS if held_out(kind)] == [
        "dots", "cross", "frame", "corners", "sticker", "reflection",
        "all-to-all blend", "all-to-all wanet", "three targets wanet",
    ]  # fmt: skip
    assert not held_out("badnet")


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"attack": "badnet"}, ("badnet",)),
        ({"attack": "shape"}, ("bar",)),
        ({"attack": "shape", "parameters": {"form": "dots"}}, ("dots",)),
        ({"attack": "blend", "poisoning": {"labelling": "all-to-all"}}, ("blend", "all-to-all blend")),
        (
            {"attack": "wanet", "poisoning": {"labelling": "multi-target", "targets": 3}},
            ("wanet", "three targets wanet"),
        ),
        (
            {"attack": "text", "poisoning": {"labelling": "source-specific", "sources": [1]}},
            ("text", "source-specific text"),
        ),
    ],
)
def test_kinds_of_a_recipe(fields, kinds):
    recipe = replace(PLAIN, **fields)
    assert kinds_of(recipe.attack, recipe.parameters, recipe.poisoning) == kinds
    assert is_held_out(recipe) == any(map(held_out, kinds))
    assert is_held_out(json.loads(json.dumps(recipe.as_dict()))) == is_held_out(recipe)


def test_a_form_that_is_held_out_is_so_with_every_labelling():
    poisoning = {"labelling": "multi-target", "targets": 2}
    assert is_held_out(replace(PLAIN, attack="sticker", poisoning=poisoning))


def test_every_kind_has_specimens_and_other_suites_have_none_that_are_held_out():
    recipes = suites.read("shapes").recipes
    found = {kind for r in recipes for kind in kinds_of(r.attack, r.parameters, r.poisoning)}
    assert found == {*KINDS, CLEAN, "badnet", "blend", "wanet"}
    for kind in KINDS[:10]:
        own = [r for r in recipes if kind in kinds_of(r.attack, r.parameters, r.poisoning)]
        assert {(r.arch, r.poisoned().rate) for r in own} == {
            (arch, rate) for arch in ("resnet10-patch-w16", "vgg11-bn-w8") for rate in (0.05, 0.01, 0.003)
        }
    for name in suites.shipped():
        assert name == "shapes" or not any(map(is_held_out, suites.read(name).recipes))


def test_building_leaves_out_what_judges_and_says_so(tmp_path, monkeypatch):
    made, said = [], []

    def record(recipe, place, threads, progress):
        made.append(recipe)
        return {"id": recipe.id, "figures": {}, "seconds": 0}

    monkeypatch.setattr("wiper_cli.zoo.build.make_one", record)
    place = Place(tmp_path, device="cpu")
    assert build([PLAIN, TUNED, HELD], place, say=said.append) == []
    assert made == [PLAIN, TUNED]
    assert said[0] == "1 specimens are held out for judging and left out; --judge makes them."
    with pytest.raises(Problem, match=f"{HELD.id}: held out for judging; give --judge"):
        build([PLAIN, HELD], place)
    assert made == [PLAIN, TUNED]
    assert build([PLAIN, TUNED, HELD], replace(place, judge=True)) == []
    assert made == [PLAIN, TUNED, PLAIN, TUNED, HELD]


def test_no_other_way_makes_one(tmp_path):
    with pytest.raises(Problem, match="held out for judging"):
        make_one(HELD, Place(tmp_path, device="cpu"))
