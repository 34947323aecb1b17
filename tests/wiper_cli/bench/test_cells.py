from dataclasses import fields, replace

import pytest

from wiper_cli.bench.cells import Cell, Store
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
    ],
)  # fmt: skip
def test_every_field_makes_another_cell(change):
    assert set(change) <= {f.name for f in fields(Cell)}
    assert replace(CELL, **change).id != CELL.id


def test_a_long_name_keeps_its_digest():
    long = replace(CELL, specimen="x" * 300)
    assert len(long.id) < 200
    assert long.id.endswith(long.digest[:8])


def test_what_is_read_is_what_was_written(tmp_path):
    store = Store(tmp_path)
    assert store.read(CELL) is None
    written = store.write(CELL, {"seconds": 1.5})
    assert store.read(CELL) == written
    assert written["seconds"] == 1.5
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [f"{CELL.id}.json"]


def test_what_is_damaged_or_another_cell_does_not_stand(tmp_path):
    store = Store(tmp_path)
    store.write(CELL, {})
    whole = store.path(CELL).read_text()
    store.path(CELL).write_text(whole[: len(whole) // 2])
    assert store.read(CELL) is None
    store.path(CELL).write_text(whole.replace('"seed": 1', '"seed": 2'))
    assert store.read(CELL) is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "cells").write_text("a file in the way")
    with pytest.raises(Problem, match="cannot be written"):
        Store(tmp_path).write(CELL, {})


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
    assert CELL.purifier().alpha == 0.1
    assert CELL.purifier().momentum == 0.9
    assert replace(CELL, settings=(("momentum", 0.0),)).purifier().momentum == 0.0
