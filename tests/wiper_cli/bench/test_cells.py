from dataclasses import fields, replace

import pytest

from wiper_cli.bench.cells import Cell
from wiper_cli.verdict import Problem

CELL = Cell("some-specimen-s1", "wiper", preset="strong", settings=(("alpha", 0.1), ("train", "head")))


def test_the_name_is_readable_and_stays():
    assert CELL.id == f"some-specimen-s1.wiper.strong.alpha=0.1.train=head.s1.{CELL.digest[:8]}"
    assert CELL.digest == Cell(**{f.name: getattr(CELL, f.name) for f in fields(CELL)}).digest


@pytest.mark.parametrize(
    "change",
    [
        {"specimen": "other"}, {"name": "clp"}, {"kind": "salience"}, {"preset": "paper"}, {"settings": ()},
        {"file": "model.onnx"}, {"images": 50}, {"labels": "model"}, {"test_images": 7}, {"seed": 2}, {"watch": True},
        {"live": True},
    ],
)  # fmt: skip
def test_every_field_makes_another_cell(change):
    assert set(change) <= {f.name for f in fields(Cell)}
    assert replace(CELL, **change).id != CELL.id


def test_a_long_name_keeps_its_digest():
    long = replace(CELL, specimen="x" * 300)
    assert len(long.id) < 200
    assert long.id.endswith(long.digest[:8])


def test_what_differs_from_the_defaults_makes_the_same_cell():
    assert Cell.of(CELL.given()) == Cell.of(CELL.as_dict()) == CELL
    assert Cell("s", "n").given() == {"specimen": "s", "name": "n"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "wipre"}, "no method 'wipre'; the nearest is 'wiper'"),
        ({"preset": "stronk"}, "wiper has no preset 'stronk'; the nearest is 'strong'"),
        ({"settings": (("alhpa", 1.0),)}, "wiper has no setting 'alhpa'; the nearest is 'alpha'"),
    ],
)
def test_a_mistyped_name_gives_the_nearest(change, sentence):
    with pytest.raises(Problem, match=sentence):
        replace(CELL, **change).purifier()


def test_settings_go_over_the_preset():
    assert (CELL.purifier().alpha, CELL.purifier().momentum) == (0.1, 0.9)
    assert replace(CELL, settings=(("momentum", 0.0),)).purifier().momentum == 0.0
