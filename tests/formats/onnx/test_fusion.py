"""Fused chains compute what their nodes compute, and keep the file's tensors."""

import numpy as np
import pytest
import tiny_onnx as tiny
import torch
from onnx import helper

from formats.onnx.serving import serve

node = helper.make_node


def check(model, function, expected=1):
    result = tiny.opened(model)
    x = tiny.images(3, 2, 3, 4)
    torch.testing.assert_close(
        result.network(x).detach(), serve(tiny.source_of(model))(x), rtol=1e-4, atol=1e-5
    )
    names = [step.function.__name__ for step in result.network._steps if step.function is not None]
    assert names.count(function) == expected
    return result


GELU = {
    "legacy": tiny.nodes("Div x root > a; Erf a > b; Add b one > c; Mul x c > d; Mul d half > g"),
    "halved first": tiny.nodes("Mul x reciprocal > a; Erf a > b; Add one b > c; Mul x half > d; Mul d c > g"),
    "halved between": tiny.nodes("Div x root > a; Erf a > b; Add b one > c; Mul half c > d; Mul d x > g"),
}  # fmt: skip
NUMBERS = {
    "root": np.float32(2**0.5), "reciprocal": np.float32(0.5**0.5), "one": np.float32(1),
    "half": np.float32(0.5), "two": np.float32(2), "eps": np.float32(1e-5),
}  # fmt: skip


def with_head(nodes, initializers, end):
    nodes = [*nodes, node("Flatten", [end], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    return tiny.make_model(nodes, {**initializers, "w": tiny.array(0, 24, 4)}, shape=("n", 2, 3, 4), opset=13)


@pytest.mark.parametrize("form", GELU)
def test_gelu(form):
    check(with_head(GELU[form], NUMBERS, "g"), "_gelu")


@pytest.mark.parametrize(("name", "value"), [("root", 1.5), ("one", 1.1), ("half", 0.4)])
def test_what_is_no_gelu_stays(name, value):
    numbers = {**NUMBERS, name: np.float32(value)}
    check(with_head(GELU["legacy"], numbers, "g"), "_gelu", 0)


@pytest.mark.parametrize("name", ["root", "one", "half"])
def test_constants_with_axes_of_their_own_give_them_to_the_result(name):
    """A fused gelu would have those of its input, and another axis would be summed."""
    numbers = {**NUMBERS, name: NUMBERS[name].reshape(1, 1, 1, 1, 1)}
    network = tiny.opened(with_head(GELU["legacy"], numbers, "g")).network
    assert "_gelu" not in [step.function.__name__ for step in network._steps if step.function]


def test_an_erf_with_a_second_reader_stays():
    nodes = [*GELU["legacy"], node("Add", ["g", "b"], ["h"])]
    check(with_head(nodes, NUMBERS, "h"), "_gelu", 0)


def layer_norm(axis=-1):
    return tiny.nodes(
        f"ReduceMean x > m | axes=[{axis}]; Sub x m > d; Pow d two > s; ReduceMean s > v | axes=[{axis}]; "
        "Add v eps > e; Sqrt e > r; Div d r > q; Mul q scale > t; Add t shift > n"
    )


def test_layer_norm():
    weights = {"scale": tiny.array(1, 4), "shift": tiny.array(2, 4)}
    result = check(with_head(layer_norm(), {**NUMBERS, **weights}, "n"), "_layer_norm")
    result.network(tiny.images(2, 2, 3, 4)).square().sum().backward()
    for name in ("scale", "shift"):
        parameter = result.network.get_parameter(result.tensors[name])
        assert torch.equal(parameter.detach(), torch.from_numpy(weights[name]))
        assert parameter.grad.abs().sum() > 0


def test_a_power_of_itself_is_no_square():
    nodes = [one for one in layer_norm() if one.op_type != "Pow"]
    place = next(index for index, one in enumerate(nodes) if one.op_type == "ReduceMean" and index)
    nodes.insert(place, node("Pow", ["d", "d"], ["s"]))
    numbers = {**NUMBERS, "scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32)}
    result = tiny.opened(with_head(nodes, numbers, "n"))
    assert "_layer_norm" not in [step.function.__name__ for step in result.network._steps if step.function]


def test_one_scale_for_all_is_taken():
    numbers = {**NUMBERS, "scale": np.array([2.0], np.float32), "shift": np.array([0.5], np.float32)}
    check(with_head(layer_norm(), numbers, "n"), "_layer_norm")


def test_normalisation_over_another_axis_stays():
    weights = {"scale": tiny.array(1, 4), "shift": tiny.array(2, 4)}
    check(with_head(layer_norm(1), {**NUMBERS, **weights}, "n"), "_layer_norm", 0)


def test_linear():
    nodes = tiny.nodes("MatMul x a > g; Add b g > h")
    weights = {"a": tiny.array(1, 4, 4), "b": tiny.array(2, 4)}
    result = check(with_head(nodes, weights, "h"), "_linear")
    assert set(result.tensors) == {"a", "b", "w"}
    wide = {"a": tiny.array(1, 4, 4), "b": tiny.array(2, 3, 4)}
    check(with_head(nodes, wide, "h"), "_linear", 0)
