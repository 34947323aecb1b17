import pytest
import torch

from formats.dtypes import DTYPES
from formats.tensors import TORCH, from_bytes, to_bytes


@pytest.mark.parametrize("name", TORCH)
def test_a_tensor_reads_back_as_it_was_written(name):
    value = torch.tensor([[1.5, 2.0, 0.0], [0.0, 3.25, 8.0]]).to(TORCH[name])
    data = to_bytes(value.T)
    assert len(data) == 6 * DTYPES[name].size
    back = from_bytes(data, name, (3, 2))
    assert back.dtype == value.dtype
    assert to_bytes(back) == data
    assert torch.equal(back.float(), value.T.float())


def test_nothing_has_a_shape_too():
    assert from_bytes(b"", "F32", (0, 3)).shape == (0, 3)
    assert from_bytes(b"", "I8").shape == (0,)
    assert to_bytes(torch.zeros(0, 3)) == b""
