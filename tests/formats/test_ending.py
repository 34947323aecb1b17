"""One number for two classes, sigmoids, softmax: what a file gives, as logits and back."""

import copy

import pytest
import tiny_onnx as tiny
import torch
from onnx import TensorProto, helper
from torch import nn
from torchscript_files import as_bytes

from formats import Source, edit_of, head_edit, head_values, inspect, open_model, serve, write_edit
from formats.ending import Ending

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class One(nn.Module):
    """``outputs`` numbers, with a sigmoid or without; ``squeezed``: without the axis of one, taken away before
    the sigmoid or after."""

    squeezed: str

    def __init__(self, outputs, sigmoid, squeezed=""):
        super().__init__()
        self.squeezed = squeezed
        torch.manual_seed(0)
        self.body, self.fc = nn.Conv2d(3, 12, 3), nn.Linear(12, outputs)
        self.sigmoid = sigmoid

    def forward(self, x):
        y = self.fc(self.body(x).relu().mean((2, 3)))
        y = y.squeeze(-1) if self.squeezed == "before" else y
        y = y.sigmoid() if self.sigmoid else y
        return y.squeeze(1) if self.squeezed == "after" else y


def source_of(kind, outputs, sigmoid, squeezed=""):
    if kind == "onnx":
        chain = tiny.nodes(
            "Conv x k > a; Relu a > b; GlobalAveragePool b > c; Flatten c > d; Gemm d w c0 > z | transB=1"
        )
        net = One(outputs, sigmoid)
        with torch.no_grad():
            net.body.bias.zero_()
        tensors = {"k": net.body.weight, "w": net.fc.weight, "c0": net.fc.bias}
        last = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])] if squeezed else None
        kinds = ["Sigmoid" if sigmoid else "Identity"]
        kinds = {"before": ["Squeeze", *kinds], "after": [*kinds, "Squeeze"], "": kinds}[squeezed]
        tensors |= {"last": torch.tensor([-1])} if squeezed else {}
        for place, one in enumerate(kinds):
            given = ["s" if place else "z", *(["last"] if one == "Squeeze" else [])]
            chain.append(helper.make_node(one, given, ["y" if place == len(kinds) - 1 else "s"]))
        tensors = {name: value.detach().numpy() for name, value in tensors.items()}
        model = tiny.make_model(chain, tensors, outputs=last)
        return Source("m.onnx", model.SerializeToString())
    network = One(outputs, sigmoid, squeezed).eval()
    return Source("m.pt", as_bytes(torch.jit.script(network)))


@pytest.mark.parametrize("ending", [Ending(), Ending(softmax=True), Ending(sigmoid=True)])
def test_logits_and_back(ending):
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 3.0, -7.0]]).log_softmax(1)
    torch.testing.assert_close(ending.logits(ending.output(logits)), logits)
    assert bool(ending.logits(torch.tensor([[0.0, 1.0]])).isfinite().all())


@pytest.mark.parametrize("sigmoid", [False, True])
def test_two_classes_of_one_number(sigmoid):
    ending = Ending(sigmoid=sigmoid, single=True)
    z = torch.tensor([[-2.0], [0.5]])
    logits = ending.logits(z.sigmoid() if sigmoid else z)
    torch.testing.assert_close(logits, torch.tensor([[1.0, -1.0], [-0.25, 0.25]]))
    torch.testing.assert_close(logits.softmax(1)[:, 1:], z.sigmoid())
    torch.testing.assert_close(ending.output(logits), z.sigmoid() if sigmoid else z)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("squeezed", ["", "before", "after"])
def test_one_logit_is_two_classes_and_written_back_as_one(kind, sigmoid, squeezed):
    source = source_of(kind, 1, sigmoid, squeezed)
    model = open_model(source)
    assert (model.classes, model.multilabel, model.head.classes, model.head.units) == (2, False, 1, 12)
    assert model.head.linear
    assert model.ending.single
    assert any("stands for two classes" in note for note in model.notes)
    logits = model.network(X).detach()
    torch.testing.assert_close(model.ending.logits(serve(source)(X)), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits.sum(1), torch.zeros(6))
    weight, bias = head_values(model)
    assert (weight.shape, bias.shape) == ((2, 12), (2,))

    trained = copy.deepcopy(model.network)
    with torch.no_grad():
        model.named(trained)[model.head.bias].add_(1.0)
    edits = {
        "network": edit_of(model, trained),
        "head": head_edit(model, weight, bias + torch.tensor([0.0, 1.0])),  # only the difference counts
    }
    for edit in edits.values():
        assert set(edit.tensors) == {model.head.bias}
        written = source.rewritten(write_edit(source, inspect(source), edit))
        moved = model.ending.logits(serve(written)(X))
        torch.testing.assert_close(moved, logits + torch.tensor([-0.5, 0.5]), rtol=1e-4, atol=1e-5)
        assert open_model(written).ending == model.ending


def test_a_probability_cut_out_with_its_index_is_two_classes():
    class Cut(One):
        def forward(self, x):
            return self.fc(self.body(x).relu().mean((2, 3))).sigmoid()[:, 0]

    model = open_model(Source("m.pt", as_bytes(torch.jit.script(Cut(1, True).eval()))))
    assert (model.classes, model.ending) == (2, Ending(sigmoid=True, single=True))
    torch.testing.assert_close(
        model.ending.logits(serve(model.source)(X)), model.network(X).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_sigmoid_for_each_class_is_said(kind):
    model = open_model(source_of(kind, 4, True))
    assert (model.classes, model.multilabel) == (4, True)
    assert model.head.linear
    assert any("(multi-label)" in note for note in model.notes)
    torch.testing.assert_close(
        model.ending.logits(serve(model.source)(X)), model.network(X).detach(), rtol=1e-4, atol=1e-5
    )
    assert not open_model(source_of(kind, 4, False)).multilabel
