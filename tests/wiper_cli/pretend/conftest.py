"""What is put on the device."""

import pytest
from colours import write_images
from digits_network import classifier, clean, digits, opened, trained  # noqa: F401
from planted_network import classifier as planted  # noqa: F401
from planted_network import part  # noqa: F401
from pretend_device import cuda  # noqa: F401


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A data set of three colours, 16 pixels a side: 20 images a class to train on, 6 to test."""
    made = tmp_path_factory.mktemp("data") / "colours"
    write_images(made / "train", 20, 0)
    write_images(made / "test", 6, 1)
    return made
