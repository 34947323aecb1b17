"""Only the ranges of the edited tensors change; whatever else would, is refused."""

import pytest
import torch
from safetensors.torch import load, save

from formats import Address, Edit, EditError, NewTensor, Source, inspect, write_edit
from formats.write import overwrite, stored_bytes


def new(values):
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    return NewTensor(names[values.dtype], tuple(values.shape), values.contiguous().numpy().tobytes())


@pytest.fixture
def source():
    state = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.ones(4, dtype=torch.float16),
        "c": torch.arange(3),
    }
    return Source("m", save(state, {"format": "pt"}))


def test_only_the_edited_bytes_change(source):
    manifest = inspect(source)
    values = torch.full((2, 3), 7.5)
    data = write_edit(source, manifest, Edit({"a": new(values)}))[""]
    assert torch.equal(load(data)["a"], values)
    a = manifest.tensors["a"]
    inside = slice(a.offset, a.offset + a.length)
    assert (
        data[: inside.start] + data[inside.stop :] == source.data[: inside.start] + source.data[inside.stop :]
    )


def test_empty_edit_is_the_file_itself(source):
    assert write_edit(source, inspect(source), Edit({})) == {"": source.data}


def test_what_does_not_fit_is_refused(source):
    manifest = inspect(source)
    wrong = {
        "no tensor": {"z": new(torch.ones(1))},
        "F32": {"a": new(torch.ones(2, 3, dtype=torch.float16))},
        r"\[2, 3\]": {"a": new(torch.ones(3, 2))},
        "no whole tensor": {"a": NewTensor("F32", (2, 3), b"1234")},
    }
    for words, tensors in wrong.items():
        with pytest.raises(EditError, match=words):
            write_edit(source, manifest, Edit(tensors))


def with_address(source, **changes):
    manifest = inspect(source)
    a = manifest.tensors["a"]
    tensors = {**manifest.tensors, "a": Address(**{**a.__dict__, **changes})}
    return type(manifest)(manifest.kind, tensors, manifest.metadata)


def test_unwritable_and_contradicting_aliases_are_refused(source):
    edit = Edit({"a": new(torch.ones(2, 3))})
    with pytest.raises(EditError, match="fixed place"):
        write_edit(source, with_address(source, writable=False), edit)
    tied = with_address(source, aliases=("d",))
    tied = type(tied)(tied.kind, {**tied.tensors, "d": tied.tensors["a"]}, tied.metadata)
    both = Edit({"a": new(torch.ones(2, 3)), "d": new(torch.zeros(2, 3))})
    with pytest.raises(EditError, match="one stored tensor"):
        write_edit(source, tied, both)


def test_a_result_that_changes_more_is_refused(source, monkeypatch):
    manifest, edit = inspect(source), Edit({"a": new(torch.ones(2, 3))})

    def careless(source, manifest, edit):
        data = bytearray(source.data)
        overwrite(data, manifest.tensors["a"], edit.tensors["a"].data)
        data[manifest.tensors["c"].offset] ^= 1
        return {"": bytes(data)}

    monkeypatch.setattr("formats.write._patch_ranges", careless)
    with pytest.raises(EditError, match="more or less"):
        write_edit(source, manifest, edit)
    monkeypatch.setattr("formats.write._patch_ranges", lambda source, *_: {"": source.data})
    with pytest.raises(EditError, match="more or less"):
        write_edit(source, manifest, edit)
    monkeypatch.setattr("formats.write._patch_ranges", lambda source, *_: {"other": b""})
    with pytest.raises(EditError, match="other files"):
        write_edit(source, manifest, edit)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3, 2, 4, 4), (1, 5), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strides_against_torch(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    storage = torch.randn(400, generator=generator).to(dtype)
    dense = torch.empty(shape).stride()
    for stride in {dense, tuple(reversed(torch.empty(shape[::-1]).stride())), tuple(2 * s for s in dense)}:
        view = storage.as_strided(shape, stride, 3)
        item = storage.element_size()
        dtype_name = "F32" if item == 4 else "F16"
        address = Address("w", "", 3 * item, 0, dtype_name, shape, stride)
        assert (
            stored_bytes(Source("m", storage.numpy().tobytes()), address)
            == view.contiguous().numpy().tobytes()
        )
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
