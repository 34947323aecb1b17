"""Folders whose names are no class names: which class is each?"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from formats import Architecture, Head, InputSpec, Manifest, Model, Source
from wiper_cli.images.folder import read_folder
from wiper_cli.images.labels import orders
from wiper_cli.images.preprocessing import Flags, prepare

ASIS = Flags(mean=(0.0,), std=(1.0,))


class Levels(nn.Module):
    """Class k is what comes nearest to grey (k + 1) / (classes + 1); of ``noise`` no class."""

    def __init__(self, classes):
        super().__init__()
        levels = torch.arange(1, classes + 1) / (classes + 1)
        self.head = nn.Linear(1, classes)
        self.head.weight = nn.Parameter(2 * levels[:, None])
        self.head.bias = nn.Parameter(-(levels**2))

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def model(classes):
    return Model(
        source=Source("m", b""), manifest=Manifest("safetensors", {}), network=Levels(classes).eval(), tensors={},
        head=Head("head.weight", "head.bias", 1, classes), classes=classes,
        architecture=Architecture("levels", "made here"), input=InputSpec(1, 4, 4),
    )  # fmt: skip


def save(place, names, classes, count=10):
    """Folder names[k] holds images of class k."""
    for k, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((4, 4), round(255 * (k + 1) / (classes + 1)), np.uint8)
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    return place


NUMBERS = [str(k) for k in range(1, 13)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (sorted(NUMBERS), "order of strings"),
        (NUMBERS, "numbers counted from 1"),
        ([f"C{k}" for k in NUMBERS], "natural order"),
        (["a", "B", "c", "D", "e", "F", "g", "H", "i", "J", "k", "L"], "natural order"),
    ],
    ids=["strings", "numbers", "natural", "case"],
)
def test_the_order_that_images_bear_out_stands_and_is_said(tmp_path, names, words):
    folder = read_folder(save(tmp_path / "c", names, 12), 12)
    ready = prepare(model(12), folder, ASIS)
    for part in (ready.clean.fit, ready.clean.select, ready.clean.report):
        assert torch.equal(ready.classifier.answers(part.images), part.labels)
    assert words in ready.folder.origin
    assert (ready.folder.names, ready.folder.doubt) == (names, "")
    assert ready.folder.margin > 0.5


def test_the_parts_hold_the_same_images_whatever_the_order(tmp_path):
    folder = read_folder(save(tmp_path / "c", sorted(NUMBERS), 12), 12)
    ready = prepare(model(12), folder, ASIS)
    assert not torch.equal(ready.folder.labels, folder.labels)
    before, after = folder.split(0), ready.folder.split(0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_folders_of_some_classes_counted_from_one(tmp_path):
    names = [str(k) for k in range(1, 10)]
    ready = prepare(model(12), read_folder(save(tmp_path / "c", names, 12, 12), 12), ASIS)
    assert ready.folder.numbers == {name: int(name) - 1 for name in names}
    assert "numbers counted from 1" in ready.folder.origin


def test_where_no_order_is_clearly_better_nothing_changes_and_a_doubt_is_said(tmp_path):
    """All images alike: right in each order on one folder alone."""
    place = tmp_path / "c"
    for name in NUMBERS:
        (place / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((4, 4), 100, np.uint8)).save(place / name / f"{i}.png")
    folder = read_folder(place, 12)
    ready = prepare(model(12), folder, ASIS)
    assert ready.folder.doubt.startswith("Nothing decides which class each folder is: of 24 images")
    assert (ready.folder.margin, ready.folder.numbers) == (None, folder.numbers)


def test_names_and_orders_that_are_all_the_same_leave_nothing_to_try(tmp_path):
    place = save(tmp_path / "c", ["a", "b", "c"], 3)
    assert len(read_folder(place, 3).orders) == 1
    assert read_folder(place, 3, ("c", "b", "a")).orders == {}
    assert len(orders([f"{k:03}" for k in range(43)], 43)) == 1


def test_another_folder_takes_the_class_of_the_same_name(tmp_path):
    """One with fewer class folders, as of triggered images, has another order."""
    place = save(tmp_path / "c", ["b", "d"], 4)
    assert read_folder(place, 4, known={"a": 3, "b": 2, "d": 0}).labels.unique().tolist() == [0, 2]
    assert read_folder(place, 4, known={"a": 3, "b": 2}).labels.unique().tolist() == [0, 1]
