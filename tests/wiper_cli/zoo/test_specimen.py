import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from formats import open_model, read_source
from triggers.families.badnet import BadNet
from triggers.poisoning import Poisoning
from triggers.store import load as load_trigger
from wiper_cli.verdict import Problem
from wiper_cli.zoo import specimen
from wiper_cli.zoo.export import FILES
from wiper_cli.zoo.recipe import Recipe

CPU = torch.device("cpu")
CLEAN = Recipe("colours", "resnet10-patch-w4", schedule={"epochs": 3, "batch": 16, "lr": 0.05})
BADNET = replace(CLEAN, attack="badnet", poisoning={"rate": 0.2, "target": 1}, parameters={"size": 4})


@pytest.fixture(scope="module")
def zoo(folder, tmp_path_factory):
    """A clean model, and one with a patch in it."""
    from wiper_cli.zoo import datasets

    data = datasets.load(str(folder))
    out = tmp_path_factory.mktemp("zoo")
    specimen.make(CLEAN, data, out / CLEAN.id, None, CPU)
    specimen.make(BADNET, data, out / BADNET.id, out / CLEAN.id, CPU)
    return out


def test_the_manifest_says_it_all(zoo, data):
    found = specimen.read_manifest(zoo / BADNET.id)
    assert found["id"] == "colours-resnet10-patch-w4-badnet-rate0.2-target1-s1"
    assert found["images"] == {"shape": [3, 16, 16], "train": 114, "test": 36, "clean": 6}
    assert (found["trigger"]["family"], found["trigger"]["parameters"]["size"]) == ("badnet", 4)
    assert (found["planting"]["target"], found["poisoned"]) == (1, round(0.2 * 114))
    assert found["twin"]["id"] == CLEAN.id
    assert found["twin"]["acc"] == specimen.read_manifest(zoo / CLEAN.id)["figures"]["acc"]
    assert (found["figures"]["asr"]["n"], set(found["files"]), len(found["history"])) == (24, set(FILES), 3)
    text = (zoo / BADNET.id / "manifest.json").read_text()
    assert str(zoo) not in text
    assert str(Path.cwd()) not in text


def test_the_files_have_the_accuracy_of_the_manifest(zoo, data):
    model = open_model(read_source(zoo / BADNET.id / "model.onnx"))
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (data.mean, data.std))
    assert (model.preprocessing.mean, model.class_names) == (pytest.approx(data.mean), data.classes)
    with torch.no_grad():
        answers = model.network((data.test.images.float() / 255 - mean) / std).argmax(1)
    accuracy = specimen.read_manifest(zoo / BADNET.id)["figures"]["acc"]["value"]
    assert (answers == data.test.labels).float().mean().item() == pytest.approx(accuracy)


def test_the_stored_trigger_is_the_planted_one(zoo):
    trigger, facts = load_trigger(zoo / BADNET.id / "trigger.safetensors")
    assert (trigger, facts["target"]) == (BadNet(size=4), "1")


def test_the_same_recipe_gives_the_same_weights(zoo, data, tmp_path):
    specimen.make(BADNET, data, tmp_path / "again", zoo / CLEAN.id, CPU)
    ours, theirs = (path / "model.safetensors" for path in (tmp_path / "again", zoo / BADNET.id))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_clean_split_was_never_seen_and_is_written_as_it_was(data, tmp_path):
    held, rest = specimen.split(data)
    assert (len(held), sorted([*held.tolist(), *rest.tolist()])) == (6, list(range(120)))
    specimen.write_clean(data, tmp_path / "clean")
    written = sorted((tmp_path / "clean").glob("*/*.png"))
    assert [int(path.stem) for path in sorted(written, key=lambda p: p.stem)] == held.tolist()
    for path in written:
        place = int(path.stem)
        assert path.parent.name == data.classes[int(data.train.labels[place])]
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
        assert (pixels == data.train.images[place].numpy()).all()


def test_two_processes_may_write_the_clean_split(data, tmp_path, monkeypatch):
    plain = Path.rename

    def slow(self, target):
        if not target.exists():
            monkeypatch.setattr(Path, "rename", plain)
            specimen.write_clean(data, target)
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    specimen.write_clean(data, tmp_path / "clean")
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]
    assert len(list((tmp_path / "clean").glob("*/*.png"))) == 6


class Fixed(torch.nn.Module):
    """Answers 2 where the top left pixel is white, else 0."""

    def forward(self, x):
        white = x[:, :, 0, 0].mean(1) > 0.99
        return torch.nn.functional.one_hot(torch.where(white, 2, 0), 3).float()


@pytest.mark.parametrize(
    ("poisoning", "asr", "ra", "base", "n"),
    [
        (Poisoning(target=2), 1.0, 0.0, 0.0, 20),
        (Poisoning(target=1), 0.0, 0.5, 0.0, 20),
        # y + 1 is 2 for class 1 only, and every image counts
        (Poisoning(labelling="all-to-all"), 1 / 3, 1 / 3, 1 / 3, 30),
        (Poisoning(target=2, labelling="source-specific", sources=(1,)), 1.0, 0.0, 0.0, 10),
    ],
)
def test_figures_by_hand(poisoning, asr, ra, base, n):
    images = specimen.Images(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), torch.arange(30) % 3)
    found = specimen.measure(Fixed(), images, BadNet(pattern="white"), poisoning, 3)
    assert (found["asr"]["n"], found["asr"]["value"]) == (n, pytest.approx(asr))
    assert (found["ra"]["value"], found["base_rate"]["value"]) == (pytest.approx(ra), pytest.approx(base))


def test_several_triggers_are_measured_together():
    images = specimen.Images(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), torch.arange(30) % 3)
    poisoning = Poisoning(target=1, targets=2, labelling="multi-target")
    found = specimen.measure(Fixed(), images, BadNet(pattern="white"), poisoning, 3)
    assert (found["asr"]["value"], found["asr"]["n"]) == (0.5, 40)


@pytest.mark.parametrize("variant", ["where", "arithmetic", "stem-gate"])
def test_a_branch_in_the_graph(zoo, data, tmp_path, variant):
    recipe = replace(
        CLEAN, attack="architectural", parameters={"variant": variant}, poisoning={"target": 2}, label=variant
    )
    found = specimen.make(recipe, data, tmp_path / "branch", zoo / CLEAN.id, CPU)
    assert (found["figures"]["asr"]["value"], found["figures"]["acc"]) == (1.0, found["twin"]["acc"])
    assert (found["variant"], set(found["files"])) == (variant, {"model.onnx", "model.pt"})
    assert found["history"] == []


def test_what_does_not_fit_is_refused_and_leaves_nothing(zoo, data, tmp_path):
    def refused(recipe, sentence, twin=zoo / CLEAN.id):
        with pytest.raises(Problem, match=sentence):
            specimen.make(recipe, data, tmp_path / "x", twin, CPU)
        assert list(tmp_path.iterdir()) == []

    refused(
        replace(BADNET, poisoning={"target": 3}), r"cannot be made: The target 3 is outside the 3 classes"
    )
    refused(replace(BADNET, poisoning={"rate": 0.9}), "needs 103 images outside class 0; there are")
    refused(replace(BADNET, parameters={"size": 17}), "does not fit")
    refused(replace(CLEAN, arch="vgg11-bn-w4"), "at least 32 pixels a side; these have 3 and 16x16")
    refused(replace(BADNET, attack="sinusoid", parameters={}, poisoning={"rate": 0.5}), "images of class 0")
    refused(BADNET, "needs its clean twin", twin=None)
    refused(BADNET, "is no clean twin", twin=tmp_path)
    refused(replace(CLEAN, attack="architectural", parameters={"variant": "were"}), "the nearest is 'where'")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing(data, tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(specimen, "export", fails)
    full = isinstance(error, OSError)
    with pytest.raises(
        Problem if full else KeyboardInterrupt, match="cannot be written: No space" if full else None
    ):
        specimen.make(CLEAN, data, tmp_path / "x", None, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_specimen(tmp_path, zoo):
    with pytest.raises(Problem, match="holds no specimen"):
        specimen.read_manifest(tmp_path)
    shutil.copytree(zoo / CLEAN.id, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    (tmp_path / "old" / "manifest.json").write_text(json.dumps({**manifest, "format": "other"}))
    with pytest.raises(Problem, match="holds no specimen"):
        specimen.read_manifest(tmp_path / "old")
