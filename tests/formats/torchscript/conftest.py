import pytest
from torchscript_files import archive, network


@pytest.fixture(scope="session")
def plain():
    """A scripted file that the refusals damage."""
    return archive(network("cnn"), "scripted")
