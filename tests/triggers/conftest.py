import pytest
import torch


@pytest.fixture
def images():
    """[5,3,20,16], every level of a stored picture possible, not square."""
    values = torch.randint(0, 256, (5, 3, 20, 16), generator=torch.Generator().manual_seed(3))
    return values.float() / 255
