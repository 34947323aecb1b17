"""The one table of dtypes, against everybody else's."""

import onnx
import pytest
import safetensors.torch
import torch

from formats.dtypes import DTYPES


@pytest.mark.parametrize("name", DTYPES)
def test_every_name_is_what_the_libraries_call_it(name):
    one, theirs = DTYPES[name], safetensors.torch._TYPES[name]
    assert str(onnx.helper.tensor_dtype_to_np_dtype(one.onnx)) == (one.numpy or one.torch)
    assert one.torch is None or theirs == getattr(torch, one.torch)
    assert theirs.itemsize == one.size
    # torch's own table lacks the newest, which its pickler names all the same.
    assert torch.storage._dtype_to_storage_type_map().get(theirs, one.storage) == one.storage
