"""Where elements lie, against torch's own strides, and what is refused in which words."""

import io
import math
import zipfile

import pytest
import torch

from formats import Address, Edit, EditError, Manifest, NewTensor, Source, stored_bytes
from formats.ranges import check_fits, contiguous, is_dense, overwrite, overwritten
from formats.tensors import to_bytes


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3, 2, 4, 4), (1, 5), (7,), (5, 2)])
@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float32, "F32"), (torch.float16, "F16"), (torch.uint8, "U8")]
)
@pytest.mark.parametrize("offset", [0, 3])
def test_strides_against_torch(shape, dtype, name, offset):
    """The last element is the last of the part: one byte less, and it is refused."""
    dense = torch.empty(shape).stride()
    for stride in (
        dense,
        tuple(reversed(torch.empty(shape[::-1]).stride())),
        tuple(2 * s if n > 1 else 0 for n, s in zip(shape, dense, strict=True)),
    ):
        storage = torch.arange(offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1).to(
            dtype
        )
        data = bytearray(to_bytes(storage))
        address = Address("w", "", offset * dtype.itemsize, 0, name, shape, stride)
        assert stored_bytes(Source("m", bytes(data)), address) == to_bytes(
            storage.as_strided(shape, stride, offset)
        )
        values = torch.arange(100, 100 + math.prod(shape)).to(dtype).reshape(shape)
        overwrite(data, address, to_bytes(values))
        storage.as_strided(shape, stride, offset).copy_(values)
        assert bytes(data) == to_bytes(storage)
        with pytest.raises(EditError, match=r"^Tensor 'w' does not lie inside its part of the file\.$"):
            overwrite(data[:-1], address, to_bytes(values))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (3, 1, 2), (3, 0, 2)])
def test_dense_strides_are_torch_s(shape):
    assert contiguous(shape) == torch.empty(shape).stride()
    assert is_dense(shape, None)
    assert is_dense(shape, contiguous(shape))


def test_dense_or_not():
    assert is_dense((1, 3), (7, 1))
    assert not is_dense((3, 2), (1, 3))
    with pytest.raises(ValueError, match="longer"):
        is_dense((2,), (1, 1))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (Address("w", "", 0, 8, "F32", (2, 1), (0, 1)), "Tensor 'w' repeats stored elements."),
        (Address("w", "", -4, 8, "F32", (2,)), "Tensor 'w' does not lie inside its part of the file."),
        (
            Address("w", "", 0, 8, "F32", (3,)),
            "The new values of 'w' have 8 bytes, which is no whole tensor.",
        ),
    ],
)
def test_no_place_for_the_elements(address, sentence):
    with pytest.raises(EditError) as caught:
        overwrite(bytearray(8), address, bytes(8))
    assert str(caught.value) == sentence


def test_a_tensor_in_an_external_file_or_an_archive():
    """The entries of an archive lie in the folder of the first; others are not the model's."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for name, value in {"m/code/net.py": b"", "n/data/0": b"wrong", "m/data/0": b"right"}.items():
            archive.writestr(name, value)
    source = Source("m", packed.getvalue(), {"w.bin": b"beside"})
    assert stored_bytes(source, Address("w", "data/0", 0, 5, "U8", (5,))) == b"right"
    assert stored_bytes(source, Address("w", "w.bin", 0, 6, "U8", (6,))) == b"beside"


A = Address("a", "", 0, 8, "F32", (2, 1), aliases=("b",))
NEW = NewTensor("F32", (2, 1), b"new data")


@pytest.mark.parametrize(
    ("address", "tensors", "sentence"),
    [
        (A, {"z": NEW}, "The file has no tensor 'z'."),
        (
            Address("a", "", 0, 8, "F32", (2, 1), writable=False),
            {"a": NEW},
            "Tensor 'a' is stored without a fixed place and cannot be replaced.",
        ),
        (
            A,
            {"a": NewTensor("F16", (2, 1), b"12")},
            "Tensor 'a' is F32 [2, 1]; the new values are F16 [2, 1].",
        ),
        (
            A,
            {"a": NewTensor("F32", (1, 2), b"12")},
            "Tensor 'a' is F32 [2, 1]; the new values are F32 [1, 2].",
        ),
        (
            A,
            {"a": NewTensor("F32", (2, 1), b"12")},
            "The new values of 'a' have 2 bytes, which is no whole tensor.",
        ),
        (
            A,
            {"a": NEW, "b": NewTensor("F32", (2, 1), b"old data")},
            "'a' and 'b' are one stored tensor but get different values.",
        ),
    ],
)
def test_an_edit_that_does_not_fit(address, tensors, sentence):
    with pytest.raises(EditError) as caught:
        check_fits(Manifest("safetensors", {"a": address, "b": address}), Edit(tensors))
    assert str(caught.value) == sentence


def test_an_edit_of_one_name_or_the_same_for_both():
    manifest = Manifest("safetensors", {"a": A, "b": A})
    for names in ("a", "b", "ab"):
        edit = Edit(dict.fromkeys(names, NEW))
        check_fits(manifest, edit)
        assert overwritten({"": b"old data and more"}, manifest, edit) == {"": b"new data and more"}
    with pytest.raises(EditError) as caught:
        overwritten({"other": b""}, manifest, Edit({"a": NEW}))
    assert str(caught.value) == "Tensor 'a' lies in a part that the file does not have."
