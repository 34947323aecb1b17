"""Where elements lie, against torch's own strides."""

import pytest
import torch

from formats import Address, EditError, Source, stored_bytes
from formats.ranges import overwrite


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3, 2, 4, 4), (1, 5), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strides_against_torch(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    storage = torch.randn(400, generator=generator).to(dtype)
    dense = torch.empty(shape).stride()
    for stride in {dense, tuple(reversed(torch.empty(shape[::-1]).stride())), tuple(2 * s for s in dense)}:
        view = storage.as_strided(shape, stride, 3)
        item, source = storage.element_size(), Source("m", storage.numpy().tobytes())
        address = Address("w", "", 3 * item, 0, f"F{8 * item}", shape, stride)
        assert stored_bytes(source, address) == view.contiguous().numpy().tobytes()
        values = torch.randn(shape, generator=generator).to(dtype)
        data = bytearray(storage.numpy().tobytes())
        overwrite(data, address, values.numpy().tobytes())
        expected = storage.clone()
        expected.as_strided(shape, stride, 3).copy_(values)
        assert bytes(data) == expected.numpy().tobytes()


def test_a_tensor_outside_its_part_is_refused():
    for address in (
        Address("w", "", 4, 8, "F32", (2,)),
        Address("w", "", 0, 8, "F32", (2, 2), (1, 2)),
        Address("w", "", 0, 8, "F32", (2, 1), (0, 1)),
    ):
        with pytest.raises(EditError):
            overwrite(bytearray(8), address, b"\0" * 4 * address.elements)
