"""Which input, which output, and what counts as unknown."""

import numpy as np
import pytest
import tiny_onnx as tiny
import torch
from onnx import TensorProto, helper

from formats import Source, trace
from formats.errors import Ambiguous, Unsupported
from formats.onnx import proto

node = helper.make_node


def test_declared_input():
    entry = proto.signature(tiny.classifier())
    assert (entry.input, entry.output) == ("x", "y")
    spec = entry.spec
    assert (spec.batch, spec.channels, spec.height, spec.width) == (None, 3, 8, 8)
    assert proto.signature(tiny.classifier(shape=(1, 3, "h", "w"))).spec.height is None


FLOAT = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("shape", "dtype", "inputs", "words"),
    [
        (("n", 3, 8, 8), FLOAT, 2, "2 inputs"),
        (("n", 3), FLOAT, 1, None),
        (("n", 3, 8, 8, 8), FLOAT, 1, None),
        (("n", 3, 8, 8), TensorProto.INT8, 1, "floats or bytes"),
    ],
)
def test_inputs_that_are_no_images_are_refused(shape, dtype, inputs, words):
    model = tiny.classifier(shape=shape, dtype=dtype)
    model.graph.input.extend([helper.make_tensor_value_info("extra", FLOAT, [1])] * (inputs - 1))
    with pytest.raises(Unsupported, match=words):
        proto.signature(model)


def test_of_several_outputs_the_flat_one_is_taken():
    outputs = [
        helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 6, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
    ]
    entry = proto.signature(tiny.classifier(outputs=outputs))
    assert entry.output == "y"
    assert "'y'" in entry.notes[0]
    assert "b" in entry.notes[0]
    with pytest.raises(Unsupported, match="no output"):
        proto.signature(tiny.classifier(outputs=outputs[:1]))


def test_the_graph_is_not_walked_for_each_of_very_many_outputs(monkeypatch):
    """Which took minutes for 3,000 of them, and hours for more; by name, or asked for, one is found among them."""
    model = tiny.classifier()
    count = proto.MOST_OUTPUTS + 1
    for number in range(count):
        model.graph.node.append(node("Relu", ["y"], [f"r{number}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"r{number}", FLOAT, ["n", 4]))
    assert proto.signature(model).served == "y"
    model.graph.node.append(node("Identity", ["y"], ["z"]))
    model.graph.output[0].name = "z"
    monkeypatch.setattr(proto, "live", None)
    data = model.SerializeToString()
    with pytest.raises(Ambiguous, match=f"has {count + 1} outputs"):
        proto.signature(model)
    with pytest.raises(Ambiguous):
        trace(Source("m.onnx", data))
    assert proto.signature(model, "r3").served == "r3"


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_logits_stand_before_a_final_softmax(operator):
    model = tiny.classifier()
    model.graph.node.append(node(operator, ["y"], ["p"]))
    model.graph.output[0].name = "p"
    x = tiny.images(3, 3, 8, 8)
    result = tiny.opened(model)
    assert operator in result.notes[0]
    torch.testing.assert_close(result.network(x), tiny.opened(tiny.classifier()).network(x))


def test_unknown_nodes_are_counted_once_by_operator():
    model = tiny.classifier()
    nodes = [
        *model.graph.node,
        *tiny.nodes(
            "FancyOp a > u1 | name='first', domain='org.example'; "
            "FancyOp a > u2 | name='second', domain='org.example'; "
            "Resize a - s > u3 | coordinate_transformation_mode='tf_crop_and_resize'; "
            "Relu a > u4 | slope=2; Gelu a > u5"
        ),
    ]
    found = {one.operator: one for one in proto.unknown(nodes, 17)}
    assert set(found) == {"org.example::FancyOp", "Resize", "Relu", "Gelu"}
    assert (found["org.example::FancyOp"].count, found["org.example::FancyOp"].names) == (
        2,
        ("first", "second"),
    )
    assert "FancyOp-17 (2x: first, second)" in str(found["org.example::FancyOp"])


def test_a_second_output_that_is_read_counts_as_unknown():
    pool = node("MaxPool", ["x"], ["y", "at"], kernel_shape=[2, 2])
    assert proto.unknown([pool], 17) == []
    assert [one.operator for one in proto.unknown([pool, node("Relu", ["at"], ["z"])], 17)] == ["MaxPool"]


def test_functions_of_the_file_are_expanded():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = tiny.nodes("Flatten x > f; MatMul f w > g; Twice g > y | domain='local'")
    model = tiny.make_model(nodes, {"w": tiny.array(0, 3, 2)}, shape=("n", 3, 1, 1))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    x = tiny.images(2, 3, 1, 1)
    result = tiny.opened(model)
    wanted = 2 * x.flatten(1).numpy() @ tiny.array(0, 3, 2)
    np.testing.assert_allclose(result.network(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert list(result.tensors) == ["w"]


@pytest.mark.parametrize("name", ["Softmax", "Twice"])
def test_a_function_in_another_version_of_the_operators_is_not_taken_for_one(name):
    add = [node("Add", ["a", "a"], ["b"])]
    nodes = tiny.nodes(f"Flatten x > f; MatMul f w > g; {name} g > y | domain='local'")
    model = tiny.make_model(nodes, {"w": tiny.array(0, 3, 2)}, shape=("n", 3, 1, 1))
    version = next(one.version for one in model.opset_import if not one.domain)
    model.functions.append(
        helper.make_function("local", name, ["a"], ["b"], add, [helper.make_opsetid("", version - 1)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(Unsupported, match=f"The function '{name}' .* another version of the operators"):
        tiny.opened(model)


def test_functions_that_nobody_calls_and_that_call_themselves():
    model = tiny.classifier()
    again = [node("F", ["a"], ["b"], domain="l")]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]
    model.functions.append(helper.make_function("l", "F", ["a"], ["b"], again, imports))
    model.opset_import.append(helper.make_opsetid("l", 1))
    with pytest.raises(Unsupported, match="cannot be expanded"):
        tiny.opened(model)
