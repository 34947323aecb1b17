"""Half precision inside ONNX graphs, against onnxruntime: what rounds and overflows there does so here."""

import numpy as np
import onnx
import pytest
import tiny_onnx as tiny
import torch

from formats.onnx.serving import serve

TAIL = "; GlobalAveragePool z > p; Flatten p > y"
#: 1 stays, 10 overflows.
CAST = "Mul x k > a; Cast a > b | to={}; Cast b > c | to=1; Mul c i > z"


def of_one(nodes, initializers, value):
    """Logits that the opened network and onnxruntime give an image of one value, and the gradient of the first."""
    model = tiny.make_model(tiny.nodes(nodes + TAIL), initializers)
    x = torch.full((1, 3, 8, 8), value, requires_grad=True)
    logits = tiny.opened(model).network(x)
    logits.sum().backward()
    return logits.detach(), serve(tiny.source_of(model))(x.detach()), x.grad


@pytest.mark.parametrize("value", [1.0, 1.2345, 10.0, 1e-9])
@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_a_cast_rounds_and_overflows_as_it_is_served(kind, value):
    pairs = {"k": np.float32(1e4), "i": np.float32(1e-4)}
    got, served, slope = of_one(CAST.format(kind), pairs, value)
    torch.testing.assert_close(got, served, rtol=1e-5, atol=0)
    assert ((slope > 0) & slope.isfinite()).all()
    assert bool(got.isinf().all()) == (value == 10.0 and kind == onnx.TensorProto.FLOAT16)


def test_a_cast_to_the_type_of_another_value_does_too():
    pairs = {"k": np.float32(1e4), "i": np.float32(1e-4), "like": np.float16(0)}
    text = CAST.replace("Cast a > b | to={}", "CastLike a like > b")
    got, served, _ = of_one(text, pairs, 10.0)
    assert torch.equal(got, served)
    assert got.isinf().all()


@pytest.mark.parametrize("operator", ["Mul", "Gemm", "Exp"])
def test_whatever_is_computed_in_half_overflows(operator):
    text = {
        "Mul": "Cast x > a | to=10; Mul a k > b; Cast b > z | to=1",
        "Exp": "Cast x > a | to=10; Exp a > b; Cast b > z | to=1",
        "Gemm": "Cast x > a | to=10; MatMul a m > b; Add b bias > c; Cast c > z | to=1",
    }[operator]
    half = {"k": np.float16(1e4), "m": np.full((8, 8), 1e3, np.float16), "bias": np.zeros(8, np.float16)}
    assert of_one(text, half, 1.0)[0].isfinite().all()
    assert of_one(text, half, 20.0)[0].isinf().all()


def test_gradients_of_half_networks_are_not_rounded():
    x = tiny.images(1, 3, 8, 8).requires_grad_()
    (tiny.opened(tiny.halved()).network(x) * 1e-9).sum().backward()
    assert (x.grad != 0).float().mean() > 0.9
