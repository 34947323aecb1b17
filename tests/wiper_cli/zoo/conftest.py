import numpy as np
import pytest
import torch
from PIL import Image

from wiper_cli.zoo import datasets

COLOURS = {"blue": (40, 60, 220), "green": (50, 210, 70), "red": (220, 60, 40)}


def write_images(folder, count, seed, side=16):
    """Noisy squares of one colour a class, ``count`` of each."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + draw.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data set of three colours, 16 pixels a side: 40 images a class to train on, 12 to test."""
    made = tmp_path_factory.mktemp("data") / "colours"
    write_images(made / "train", 40, 0)
    write_images(made / "test", 12, 1)
    return made


@pytest.fixture
def data(folder):
    return datasets.load(str(folder))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
