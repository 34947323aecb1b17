import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from wiper_cli.bench.cells import Cell
from wiper_cli.bench.store import Store
from wiper_cli.rates import Rate
from wiper_cli.verdict import Problem

CELLS = [Cell("some-specimen-s1", "wiper", settings=(("alpha", n / 10),)) for n in range(8)]
CELL = CELLS[0]
OUTCOME = {
    "run": {"commit": None, "torch": "2"}, "settings": {"alpha": 0.0},
    "specimen": {"sha256": "ab", "twin": {"id": "clean-s1", "acc": Rate(7575, 10_000).as_dict()}},
    "before": {"acc": Rate(2, 3).as_dict(), "asr": Rate(0, 0).as_dict()}, "seconds": 0.123456789,
    "der": float("nan"), "notes": (),
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def lines(store):
    return [json.loads(line) for line in store.path.read_text().splitlines()]


def test_what_is_read_is_what_was_written(store):
    assert store.read(CELL) is None
    written = store.write(CELL, OUTCOME)
    assert store.read(CELL) == written
    store.merge()
    assert (store.read(CELL), store.cells()) == (written, [CELL])
    assert written["before"]["acc"] == {"value": 0.666667, "n": 3, "interval": [0.207655, 0.93851]}
    assert written["before"]["asr"] == {"value": None, "n": 0, "interval": [0.0, 1.0]}
    assert (written["specimen"]["twin"]["acc"]["value"], written["seconds"]) == (0.7575, 0.123457)
    assert not {"der", "notes"} & set(written)
    assert Store(store.root, "small").read(CELL) is None
    store.path.unlink()
    assert store.write(CELL, written) == written


def test_one_line_a_cell_by_name_and_once_what_they_share(store):
    for cell in reversed(CELLS):
        store.write(cell, OUTCOME)
    store.merge()
    text = store.path.read_text()
    found = lines(store)
    assert [next(iter(line)) for line in found] == ["run", "settings", "specimen"] + ["cell"] * len(CELLS)
    assert [line["cell"] for line in found[3:]] == sorted(cell.id for cell in CELLS)
    assert list(store.beside(CELL).parent.glob("*.jsonl")) == []
    store.write(CELL, {**OUTCOME, "settings": {"alpha": 1}})
    store.merge()
    assert set(store.path.read_text().splitlines()) - set(text.splitlines()) == {
        line for line in store.path.read_text().splitlines() if '{"alpha":1}' in line or CELL.id in line
    }
    for cell in CELLS:
        store.write(cell, OUTCOME)
    store.merge()
    assert store.path.read_text() == text  # what no cell refers to is gone, too


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-9], lambda line: line.replace(b'"seed":2', b'"seed":3'),
        lambda line: line.replace(b"wiper", b"wip\xffr"), lambda line: b"<<<<<<< ours",
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_kept_and_the_others_stand(store, damage):
    for cell in (CELL, other := replace(CELL, seed=2)):
        store.write(cell, OUTCOME)
    store.merge()
    whole = store.path.read_bytes().splitlines()
    number = next(n for n, line in enumerate(whole) if other.id.encode() in line)
    whole[number] = damage(whole[number])
    store.path.write_bytes(b"\n".join(whole) + b"\n")
    assert store.read(CELL) is not None
    assert store.read(other) is None
    assert store.damaged().endswith(f"left out: line {number + 1}.")
    store.write(other, OUTCOME)
    store.merge()
    assert store.read(other) == {**store.read(CELL), "id": other.id, "cell": other.given()}
    assert store.path.read_bytes().splitlines()[-1] == whole[number]


@pytest.mark.parametrize("damage", [lambda line: b"", lambda line: line.replace(b'"2"', b'"3"')])
def test_a_cell_whose_shared_line_is_gone_or_edited_does_not_stand(store, damage):
    for cell in CELLS:
        store.write(cell, OUTCOME)
    store.merge()
    run, *others = store.path.read_bytes().splitlines()
    store.path.write_bytes(b"\n".join([damage(run), *others]))
    assert store.read(CELL) is None
    assert store.damaged().endswith("line 1, 4, 5, 6, 7 and 4 more.")
    store.path.write_bytes(b"\n".join([run, *others]))
    assert store.read(CELL) is not None
    assert not store.damaged()


def test_whoever_writes_and_merges_at_once_loses_nothing(store):
    def work(cell):
        for seed in range(5):
            store.write(replace(cell, seed=seed), {**OUTCOME, "seconds": seed + 1.0})
            store.merge()
            assert store.read(replace(cell, seed=seed))["seconds"] == seed + 1.0

    with ThreadPoolExecutor(len(CELLS)) as pool:
        list(pool.map(work, CELLS))
    assert len(store.cells()) == 5 * len(CELLS)
    assert not store.damaged()
    assert list(store.beside(CELL).parent.glob("*.jsonl")) == []


def test_what_was_written_anew_during_a_merge_stays(store, monkeypatch):
    from wiper_cli.bench import store as module

    store.write(CELL, {**OUTCOME, "seconds": 1.0})
    whole = module.put

    def put(path, data):
        whole(path, data)
        if path == store.path:
            monkeypatch.undo()
            store.write(CELL, {**OUTCOME, "seconds": 2.0})

    monkeypatch.setattr(module, "put", put)
    store.merge()
    assert store.read(CELL)["seconds"] == 2.0


@pytest.mark.parametrize("name", ["cells-tiny", "cells-tiny.jsonl"])
def test_a_folder_that_cannot_be_written_is_said(store, name):
    if name == "cells-tiny.jsonl":
        (store.root / name).mkdir()
    else:
        (store.root / name).write_text("a file in the way")
    with pytest.raises(Problem, match=r"cannot be (read|written)"):  # noqa: PT012 - either may
        store.write(CELL, {})
        store.merge()
