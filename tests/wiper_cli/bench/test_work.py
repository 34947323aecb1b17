from dataclasses import replace

import pytest

from wiper_cli.bench import running
from wiper_cli.bench.cells import Cell
from wiper_cli.bench.running import run
from wiper_cli.bench.work import complete, missing, status


@pytest.fixture
def cells(badnet):
    return [Cell(badnet, "clp", settings=(("deviations", d),), test_images=30) for d in (2.0, 3.0, 4.0)]


def written(place):
    return place.store.path.read_text()


def test_a_resumed_bench_reruns_nothing(cells, place):
    said, moved = [], []
    assert complete(cells, place, say=said.append, progress=lambda *p: moved.append(p)) == []
    assert len(said) == 3
    assert said[0].startswith(f"[1/3] {cells[0].id}: ACC ")
    assert moved[-1] == ("bench", 3, 3)
    before = written(place)
    said.clear()
    assert (complete(cells, place, say=said.append), said) == ([], ["3 of 3 cells stand already."])
    assert written(place) == before


def test_a_killed_run_loses_its_cell_at_most(cells, place, monkeypatch):
    whole = running._purify

    def killed(cell, *rest):
        found = whole(cell, *rest)
        if cell == cells[1]:
            raise KeyboardInterrupt
        return found

    monkeypatch.setitem(running._KINDS, "purify", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(cells, place)
    monkeypatch.undo()
    assert missing(cells, place.store) == cells[1:]
    before = place.store.read(cells[0])
    run(cells[1], place)  # as if it had been killed before what it wrote was moved
    assert (complete(cells, place), place.store.read(cells[0])) == ([], before)
    assert place.store.cells() == sorted(cells, key=lambda cell: cell.id)


def test_several_at_once_give_the_same(cells, place, tmp_path):
    complete(cells[:2], place)
    beside = replace(place, results=tmp_path / "beside")
    assert complete(cells[:2], beside, jobs=2) == []
    for cell in cells[:2]:
        one, other = (p.store.read(cell) for p in (place, beside))
        assert (one["after"], one["edit"]) == (other["after"], other["edit"])


def test_what_cannot_be_run_is_said(cells, place):
    said = []
    wrong = [
        replace(cells[0], specimen="cifar10-nowhere-s1"),
        replace(cells[0], settings=(("deviation", 1.0),)),
    ]
    assert complete([*wrong, cells[0]], place, say=said.append) == []
    assert said[:2] == [
        "Skipped 1 cells: the zoo has no cifar10-nowhere-s1; 'wiper zoo build' makes it.",
        "Skipped 1 cells: clp has no setting 'deviation'; the nearest is 'deviations'.",
    ]
    assert missing([cells[0]], place.store) == []


def test_what_judges_is_skipped_and_said(held_out, place):
    said, cell = [], Cell(held_out, "clp", test_images=30)
    assert complete([cell], place, say=said.append) == []
    assert said == [
        f"Skipped: {held_out}: held out for judging; give --judge, and change no setting after what you see."
    ]
    assert missing([cell], place.store) == [cell]
    assert complete([cell], replace(place, judge=True)) == []
    assert missing([cell], place.store) == []


def test_a_refusal_stands_until_it_is_asked_again(place, badnet):
    cell = Cell(badnet, "fine-tuning", settings=(("lr", 1e30),), test_images=30)
    said = []
    assert complete([cell], place, say=said.append) == []
    assert "refused. Training diverged" in said[0]
    store = place.store
    assert (missing([cell], store), missing([cell], store, retry=True)) == ([], [cell])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"specimen": {"sha256": "0" * 64}}, "model.safetensors of {specimen}"),
        ({"settings": {"deviations": 2.5}}, "clp deviations was 2.5 and is 2.0"),
        ({"code": "0" * 12}, "code of clp"),
    ],
)
def test_what_has_changed_is_measured_again(cells, place, change, told):
    complete(cells[:1], place)
    store = place.store
    outcome = store.read(cells[0])
    key, value = next(iter(change.items()))
    store.write(cells[0], {**outcome, key: {**outcome[key], **value} if isinstance(value, dict) else value})
    assert [status(cell, store, place.zoo) for cell in cells[:2]] == ["stale", "missing"]
    said = []
    assert complete(cells[:1], place, say=said.append) == []
    assert said[0] == (
        f"1 cells are run again, since something has changed: {told.format(specimen=cells[0].specimen)}."
    )
    assert status(cells[0], store, place.zoo) == "stands"
    assert all(store.read(cells[0])[key] == outcome[key] for key in ("after", "edit", *change))


def test_a_mistake_in_one_method_stops_no_other(cells, place, monkeypatch):
    whole = running._purify

    def mistaken(cell, *rest):
        if cell == cells[0]:
            raise RuntimeError("a shape is wrong")
        return whole(cell, *rest)

    monkeypatch.delenv("WIPER_DEBUG", raising=False)
    monkeypatch.setitem(running._KINDS, "purify", mistaken)
    said = []
    (failure,) = complete(cells[:2], place, say=said.append)
    assert "Internal failure (RuntimeError): a shape is wrong" in str(failure)
    assert said[0].startswith(f"[1/2] {cells[0].id}: Internal failure")
    assert missing(cells[:2], place.store) == cells[:1]
