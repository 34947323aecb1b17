import pytest
import torch
from colours import write_images

from wiper_cli.zoo import datasets


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
