import json
import shutil

import pytest
import torch
from colours import write_images

from wiper_cli.bench.identity import identity
from wiper_cli.bench.store import Place, Store
from wiper_cli.rates import Rate
from wiper_cli.zoo import build
from wiper_cli.zoo.recipe import Recipe

SCHEDULE = {"epochs": 2, "batch": 16, "lr": 0.05}
CLEAN = Recipe("colours", "resnet10-patch-w4", schedule=SCHEDULE)
BADNET = Recipe("colours", "resnet10-patch-w4", "badnet", poisoning={"rate": 0.2}, schedule=SCHEDULE)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A zoo of a clean model and a BadNet on three colours, with 40 clean images a class; made once."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bench")
    write_images(root / "colours" / "train", 40, 0)
    write_images(root / "colours" / "test", 12, 1)
    assert build.build([CLEAN, BADNET], build.Place(root / "zoo", root, device="cpu")) == []
    shutil.rmtree(root / "zoo" / "clean" / "colours")
    write_images(root / "zoo" / "clean" / "colours", 40, 2)
    return root


@pytest.fixture
def place(made, tmp_path):
    return Place(made / "zoo", tmp_path / "results", made, "cpu", 1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def badnet():
    return BADNET.id


@pytest.fixture
def clean():
    return CLEAN.id


@pytest.fixture
def held_out(place):
    """The BadNet under a name and in a manifest of a kind that is held out."""
    folder = place.zoo / "colours-sticker"
    shutil.copytree(place.zoo / BADNET.id, folder)
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_bytes())
    told["recipe"]["attack"] = "sticker"
    manifest.write_text(json.dumps(told))
    yield folder.name
    shutil.rmtree(folder)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def by_hand():
    """Writes an outcome with shares of 200 images."""

    def share(value):
        return Rate(round(200 * value), 200).as_dict()

    def write(store, cell, acc=0.85, asr=0.05, ra=0.7, **more):
        before = {"acc": share(0.9), "asr": share(0.99), "ra": share(0.01), "base_rate": share(0.02)}
        run = {
            "device": "cpu", "cuda": None, "threads": 1, "cores": 2, "machine": "m", "python": "3.11",
            "torch": "2",
        }  # fmt: skip
        outcome = {
            "run": run,
            "specimen": {"sha256": "ab", "bn": "frozen", "twin": {"ra": share(0.8)}},
            **identity(cell),
            "before": before,
            "after": {"acc": share(acc), "asr": share(asr), "ra": share(ra), "base_rate": share(0.02)},
            "der": (0.99 - asr - max(0, 0.9 - acc) + 1) / 2,
            "seconds": 2.0,
            "images_seen": 500,
            "peak_bytes": {"host": 3 * 10**8, "gpu": None},
            "parts": {"fit": 60, "select": 20, "report": 20},
            "moved": {"largest": 0.375, "head": {"largest": 0.25, "over_one": 3}},
        }
        store.write(cell, outcome | more)

    return write
