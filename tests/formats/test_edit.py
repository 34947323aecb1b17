"""What training changed, rounded to the file's dtype; edits packed and applied."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from formats import (
    Edit,
    EditError,
    FormatError,
    NewTensor,
    Source,
    apply_edit,
    edit_of,
    head_edit,
    head_values,
    open_model,
    pack_tensors,
    unpack_tensors,
    write_edit,
)  # fmt: skip


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = self.b

    def forward(self, x):
        return self.head(self.c(self.b(self.norm(self.a(x)))).relu().mean((2, 3)))


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def opened(factory=plain, dtype=torch.float32):
    """A network of this file, stored in the given dtype."""
    torch.manual_seed(0)
    state = factory().state_dict().items()
    state = {name: v.clone().to(dtype) if v.is_floating_point() else v for name, v in state}
    return open_model(Source("m", save(state)), arch=f"{__file__}:{factory.__name__}")


def moved(model, *names, by=0.25):
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for name in names:
            model.named(network)[name].add_(by)
    return network


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_change_that_rounding_swallows_is_none(dtype):
    model = opened(dtype=dtype)
    assert not edit_of(model, moved(model, "4.weight", by=1e-7))
    edit = edit_of(model, moved(model, "4.weight"))
    written = load(write_edit(model.source, model.manifest, edit)[""])
    expected = (load(model.source.data)["4.weight"].float() + 0.25).to(dtype)
    assert torch.equal(written["4.weight"], expected)


def test_layout_of_training_is_undone():
    model = opened()
    network = moved(model, "0.weight").to(memory_format=torch.channels_last)
    assert edit_of(model, network) == edit_of(model, moved(model, "0.weight"))


def test_two_stored_copies_of_one_parameter_are_both_written():
    model = opened(Tied)
    assert model.tensors["b.weight"] == model.tensors["c.weight"]
    edit = edit_of(model, moved(model, "b.weight"))
    assert set(edit.tensors) == {"b.weight", "c.weight"}


def test_batch_norm_statistics_are_part_of_it_where_they_moved():
    model = opened(Tied)
    network = copy.deepcopy(model.network)
    assert not edit_of(model, network)
    network.network.norm.running_mean.add_(1)
    edit = edit_of(model, network)
    assert set(edit.tensors) == {"norm.running_mean"}
    assert torch.equal(
        apply_edit(model, edit).network.network.norm.running_mean, network.network.norm.running_mean
    )
    assert "norm.running_mean" not in model.tensors


def test_values_that_overflow_are_refused():
    model = opened(dtype=torch.float16)
    with pytest.raises(EditError, match="not finite"):
        edit_of(model, moved(model, "4.weight", by=1e6))


def test_head_edit_and_apply():
    model = opened()
    weight, bias = torch.randn(3, 4), torch.randn(3)
    edit = head_edit(model, weight, bias)
    changed = apply_edit(model, edit)
    for got, wanted in zip(head_values(changed), (weight, bias), strict=True):
        assert torch.equal(got, wanted)
    assert not torch.equal(head_values(model)[0], weight)
    assert edit_of(model, changed.network) == edit
    with pytest.raises(EditError, match="3 x 4"):
        head_edit(model, weight.T, bias)


def test_apply_refuses_names_that_the_network_lacks():
    with pytest.raises(EditError, match="no weight"):
        apply_edit(opened(), Edit({"nothing": NewTensor("F32", (1,), b"\0" * 4)}))


def test_packing_round_trip():
    tensors = {
        "/model/fc.weight": NewTensor("F32", (2, 1), b"12345678"),
        "ünï\0code": NewTensor("F16", (), b"ab"),
        "empty": NewTensor("I64", (0, 3), b""),
    }
    again = unpack_tensors(pack_tensors(tensors))
    assert again == tensors
    assert list(again) == list(tensors)
    assert unpack_tensors(pack_tensors({})) == {}


def test_packed_tensors_are_read_strictly():
    data = pack_tensors({"w": NewTensor("F32", (1,), b"1234")})
    for broken in (data[:-1], data + b"x", data.replace(b'"t0":"w"', b'"t1":"w"'), b""):
        with pytest.raises(FormatError):
            unpack_tensors(broken)
