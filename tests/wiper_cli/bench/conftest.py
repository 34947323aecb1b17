import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from wiper_cli.bench.running import Place
from wiper_cli.zoo import build
from wiper_cli.zoo.recipe import Recipe

COLOURS = {"blue": (40, 60, 220), "green": (50, 210, 70), "red": (220, 60, 40)}
SCHEDULE = {"epochs": 2, "batch": 16, "lr": 0.05}
CLEAN = Recipe("colours", "resnet10-patch-w4", schedule=SCHEDULE)
BADNET = Recipe("colours", "resnet10-patch-w4", "badnet", poisoning={"rate": 0.2}, schedule=SCHEDULE)


def write_images(folder, count, seed, side=16):
    """Noisy squares of one colour a class, ``count`` of each."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + draw.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")


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
