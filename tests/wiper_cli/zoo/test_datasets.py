import numpy as np
import pytest
import torch
from PIL import Image

from wiper_cli.verdict import Problem
from wiper_cli.zoo.datasets import TEST_SHARE, load


def test_a_folder_of_train_and_test(folder, data):
    assert (data.name, data.classes, data.shape) == ("colours", ("blue", "green", "red"), (3, 16, 16))
    assert (len(data.train), len(data.test), data.train.labels.bincount().tolist()) == (120, 36, [40, 40, 40])
    first = np.asarray(Image.open(folder / "train" / "blue" / "000.png")).transpose(2, 0, 1)
    assert (data.train.images[0].numpy() == first).all()


def test_mean_and_std_are_those_of_all_pixels(data):
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_without_a_test_folder_every_fifth_image_of_a_class_is_held(folder):
    alone = load(str(folder / "train"))
    assert (len(alone.test), alone.test.labels.bincount().tolist()) == (120 // TEST_SHARE, [8, 8, 8])
    assert len(torch.cat([alone.train.images, alone.test.images]).flatten(1).unique(dim=0)) == 120


def test_a_name_is_looked_for_in_the_root(folder):
    assert load("colours", root=folder.parent).name == "colours"


def test_scaled_and_grey(tmp_path):
    for name in "ab":
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (10 + i, 9), i).save(tmp_path / "grey" / name / f"{i}.png")
    with pytest.raises(Problem, match="differ in size or colour; give --size"):
        load(str(tmp_path / "grey"))
    assert load(str(tmp_path / "grey"), size=12).shape == (1, 12, 12)


def test_refusals(tmp_path, folder):
    with pytest.raises(
        Problem, match="neither a folder of images nor a known data set; the nearest is 'cifar10'"
    ):
        load("cifar1")
    with pytest.raises(Problem, match="is not in"):
        load("cifar10", root=tmp_path)
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(Problem, match="holds no images"):
        load(str(tmp_path / "one"))
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a" / "1.png")
    with pytest.raises(Problem, match="has 1 class"):
        load(str(tmp_path / "one"))
    (tmp_path / "one" / "a" / "2.png").write_text("no picture")
    with pytest.raises(Problem, match=r"2\.png.*cannot be read"):
        load(str(tmp_path / "one"), size=8)
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "c")):
        (tmp_path / "two" / part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "two" / part / name / "1.png")
    with pytest.raises(Problem, match="other class folders"):
        load(str(tmp_path / "two"))
