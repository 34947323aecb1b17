"""Which of several outputs holds the logits, in ONNX and in TorchScript."""

import onnx
import pytest
import tiny_onnx as tiny
import torch
from onnx import TensorProto, helper
from torch import nn
from torchscript_files import as_bytes

from formats import Ambiguous, Source, open_model, serve, trace
from formats.outputs import chosen


@pytest.mark.parametrize(
    ("widths", "made_from", "wanted"),
    [
        ({"features": 96, "logits": 10}, {}, "logits"),
        ({"a": 96, "b": 10}, {"a": set(), "b": {"a"}}, "b"),
        ({"b": 10, "a": 96, "c": 32}, {"a": set(), "c": {"a"}, "b": {"a", "c"}}, "b"),
        ({"only": 7}, None, "only"),
    ],
)
def test_decided_by_name_then_by_what_is_computed_from_what(widths, made_from, wanted):
    assert chosen(widths, None, made_from) == wanted


@pytest.mark.parametrize(
    ("widths", "made_from"),
    [
        ({"gender_logits": 2, "age_logits": 10}, {}),
        ({"a": 96, "b": 10}, {"a": set(), "b": set()}),
        ({"a": 10, "b": 10}, {"a": set(), "b": {"a"}}),  # b may be a decoy behind what is served
        ({"a": 96, "b": 10, "c": 10}, {"b": {"a"}, "c": {"a"}}),
    ],
)
def test_never_a_guess(widths, made_from):
    with pytest.raises(Ambiguous, match=r"--logits NAME") as caught:
        chosen(widths, None, made_from)
    assert caught.value.outputs == widths
    assert all(name in str(caught.value) for name in widths)
    assert chosen(widths, next(iter(widths)), made_from) == next(iter(widths))


def test_a_name_that_is_not_there():
    with pytest.raises(Ambiguous, match=r"called 'z'; there are: a \(96 numbers\), b \(\? numbers\)"):
        chosen({"a": 96, "b": None}, "z")


class Body(nn.Module):
    """``form``: what it returns."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc, self.other = nn.Conv2d(3, 12, 3), nn.Linear(12, 5), nn.Linear(12, 4)
        self.form = form

    def forward(self, x):
        f = self.body(x).relu().mean((2, 3))
        y = self.fc(f)
        if self.form == "tuple":
            return f, y
        if self.form == "dict":
            return {"embedding": f, "logits": y}
        return self.other(f), y


def exported(form, names, tmp_path):
    path = tmp_path / "m.onnx"
    axes = {name: {0: "n"} for name in ("x", *names)}
    torch.onnx.export(
        Body(form).eval(), (torch.rand(2, 3, 8, 8),), path, input_names=["x"], output_names=names, dynamic_axes=axes,
        dynamo=False,
    )  # fmt: skip
    return Source("m.onnx", path.read_bytes())


def traced(form):
    return Source("m.pt", as_bytes(torch.jit.trace(Body(form).eval(), torch.rand(2, 3, 8, 8), strict=False)))


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits():
    return Body("tuple").eval()(X)[1]


@pytest.mark.parametrize(
    ("kind", "names"),
    [(kind, ["embedding", "logits"]) for kind in ("onnx", "torchscript")]
    + [("onnx", ["first", "second"]), ("torchscript", ["0", "1"])],
)
def test_an_embedding_that_comes_first_is_not_the_logits(kind, names, tmp_path):
    form = "dict" if names[0] == "embedding" else "tuple"
    source = exported("tuple", names, tmp_path) if kind == "onnx" else traced(form)
    model = open_model(source)
    assert (model.classes, model.source.logits, model.head.units) == (5, names[1], 12)
    assert any(f"{names[1]!r} is taken for the logits; ignored: {names[0]}" in note for note in model.notes)
    torch.testing.assert_close(model.network(X).detach(), logits())
    torch.testing.assert_close(serve(model.source)(X), logits())


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_two_heads_have_to_be_told_apart(kind, tmp_path):
    names = ["gender_logits", "age_logits"] if kind == "onnx" else ["0", "1"]
    source = exported("heads", names, tmp_path) if kind == "onnx" else traced("heads")
    with pytest.raises(Ambiguous, match=f"2 outputs .* {names[0]} .4 numbers., {names[1]} .5 numbers."):
        open_model(source)
    with pytest.raises(Ambiguous):
        serve(source)(X)
    named = Source(source.name, source.data, logits=names[1])
    model = open_model(named)
    assert model.classes == 5
    torch.testing.assert_close(model.network(X).detach(), logits())
    torch.testing.assert_close(serve(model.source.rewritten({}))(X), logits())
    with pytest.raises(Ambiguous, match="is called 'z'"):
        open_model(Source(source.name, source.data, logits="z"))
    flow = trace(source)  # a branch may lead to either
    assert len(flow.nodes[flow.output].data) == 2


def test_labels_beside_probabilities_are_no_logits():
    """As scikit-learn and many apps have it: the class, its probabilities, and the logits."""
    model = tiny.classifier()
    model.graph.node.extend(tiny.nodes("Softmax y > p; ArgMax y > label | axis=1, keepdims=1"))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n", 1]))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 4]))
    onnx.checker.check_model(model)
    opened = open_model(Source("m.onnx", model.SerializeToString()))
    assert (opened.classes, opened.source.logits) == (4, "y")
