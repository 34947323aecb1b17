"""The dataflow of ONNX graphs: what is read, what decides, and what lies inside If, Loop and Scan."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiny_onnx import array, classifier, make_model, nodes

from formats import Source, Unsupported, trace
from formats.dataflow import Span


def followed(model):
    return trace(Source("m.onnx", model.SerializeToString()))


def by_operator(flow, operator):
    return [node for node in flow.nodes if node.operator == operator]


def head(before, **more):
    """``before`` makes ``f`` [N,3] of the images ``x``; the head makes ``y`` of it."""
    weights = {"w": array(0, 3, 4), **more}
    return make_model(nodes(f"{before}; MatMul f w > y"), weights)


POOLED = "GlobalAveragePool x > p; Flatten p > "


def test_weights_are_stored_and_sizes_only_decide():
    flow = followed(head("Shape x > s; Reshape x s > r; GlobalAveragePool r > p; Flatten p > f"))
    (reshape,) = by_operator(flow, "Reshape")
    assert [flow.nodes[n].role for n in reshape.data] == ["input"]
    assert [flow.nodes[n].role for n in reshape.control] == ["shape"]
    (product,) = by_operator(flow, "MatMul")
    assert flow.nodes[product.data[1]].values.shape == (3, 4)
    assert flow.nodes[flow.output] is product
    assert flow.shape == (None, 3, 8, 8)


def test_the_size_of_a_crop_only_decides():
    text = f"{POOLED}f; ReduceMax x > k | keepdims=0; Cast k > n | to=7; Reshape n one > s"
    text += "; CenterCropPad w s > c | axes=[0]"
    weights = {"w": array(0, 3, 4), "one": np.array([1])}
    flow = followed(make_model(nodes(f"{text}; Size c > q; MatMul f w > y"), weights, opset=18))
    (crop,) = by_operator(flow, "CenterCropPad")
    assert [flow.nodes[n].role for n in crop.data] == ["stored"]
    assert [flow.nodes[n].operator for n in crop.control] == ["Reshape"]


def test_nodes_that_stand_after_their_use_are_followed_all_the_same():
    model = head(f"{POOLED}f")
    ordered = followed(model)
    backwards = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(backwards)
    found = followed(model)
    assert sorted(node.operator for node in found.nodes) == sorted(node.operator for node in ordered.nodes)
    assert found.nodes[found.output].operator == "MatMul"


def test_a_circle_is_refused():
    model = head(f"{POOLED}a; Add a c > b; Relu b > c; Relu c > f")
    with pytest.raises(Unsupported, match="in a circle"):
        followed(model)


@pytest.mark.parametrize(
    ("operator", "constants", "spans"),
    [
        ("Slice x from to axes > f", {"from": [0, 5], "to": [3, 2**62], "axes": [2, 3]},
         (Span(2, 0, 3), Span(3, 5, None))),
        ("Slice x from to > f", {"from": [1], "to": [2]}, (Span(0, 1, 2),)),
        ("Slice x from to axes steps > f", {"from": [0], "to": [8], "axes": [3], "steps": [2]}, (Span(3, 0, 8, 2),)),
        ("Slice x from to axes steps > f", {"from": [-1], "to": [-(2**31)], "axes": [3], "steps": [-1]},
         (Span(3, -1, -(2**31), -1),)),
        # Backwards from before the first element onnxruntime takes that one.
        ("Slice x from to axes steps > f", {"from": [-100], "to": [-(2**31)], "axes": [3], "steps": [-1]},
         (Span(3, 0, 1),)),
        ("Gather x at > f | axis=1", {"at": [2]}, (Span(1, 2, 3),)),
        ("Gather x at > f | axis=2", {"at": [1, 4, 4]}, (Span(2, 1, 3),)),
    ],
)  # fmt: skip
def test_what_a_constant_window_takes(operator, constants, spans):
    held = {name: np.array(value, np.int64) for name, value in constants.items()}
    flow = followed(make_model(nodes(f"{operator}; GlobalAveragePool f > p; Flatten p > y"), held))
    assert [node.spans for node in flow.nodes if node.role == "pick"] == [spans]


def test_a_window_by_pixels_has_no_place():
    flow = followed(head("ReduceMax x > m | keepdims=0; Cast m > i | to=7; Unsqueeze i z > a; Slice x a e > g; "
                         "GlobalAveragePool g > p; Flatten p > f", z=np.array([0]), e=np.array([9])))  # fmt: skip
    (window,) = by_operator(flow, "Slice")
    assert window.spans is None
    assert by_operator(flow, "Cast")[0].role == "step"


def test_a_cast_among_floats_changes_no_value():
    flow = followed(head(f"{POOLED}a; Cast a > b | to=10; Cast b > f | to=1"))
    assert [one.role for name in ("CastToHalf", "Cast") for one in by_operator(flow, name)] == [
        "view",
        "view",
    ]


@pytest.mark.parametrize("to", [10, 16, 17, 19])
def test_what_weights_are_in_is_not_told_by_other_tensors(to):
    text = f"{POOLED}a; Cast a > b | to={to}; Cast b > c | to=1; ReduceMean s > m | keepdims=0; Cast m > n | to=1"
    flow = followed(head(f"{text}; Mul c n > f", s=np.ones(100_000, np.float16)))
    assert len(by_operator(flow, "CastToHalf")) == 1


def test_in_a_file_of_halves_casts_to_half_are_usual():
    flow = followed(head("Cast x > h | to=10; Conv h k > i; Cast i > j | to=1; GlobalAveragePool j > p; Flatten p > f",
                         k=np.ones((4, 3, 40, 40), np.float16)))  # fmt: skip
    assert by_operator(flow, "CastToHalf") == []


def body(text, inputs, outputs):
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes(text),
        "body",
        [value(name, kind, shape) for name, kind, shape in inputs],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
    )


def test_if_chooses_between_what_its_graphs_make_of_the_outer_values():
    then, other = (body(f"{one} a > {one}", [], [one]) for one in ("Relu", "Neg"))
    chosen = helper.make_node("If", ["c"], ["f"], then_branch=then, else_branch=other, name="fork")
    steps = nodes(f"{POOLED}a; ReduceMax a > m | keepdims=0; Greater m zero > c")
    flow = followed(make_model([*steps, chosen, *nodes("MatMul f w > y")],
                               {"w": array(0, 3, 4), "zero": np.float32(0)}))  # fmt: skip
    (fork,) = by_operator(flow, "If")
    assert {flow.nodes[n].operator for n in fork.data} == {"Relu", "Neg"}
    assert [flow.nodes[n].operator for n in fork.control] == ["Greater"]
    assert fork.place == "fork"


def test_what_a_loop_makes_is_what_it_reads():
    inside = body("Relu s > t; Identity go > again",
                  [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("s", TensorProto.FLOAT, None)],
                  ["again", "t"])  # fmt: skip
    loop = helper.make_node("Loop", ["n", "", "a"], ["f"], body=inside)
    flow = followed(make_model([*nodes(f"{POOLED}a"), loop, *nodes("MatMul f w > y")],
                               {"w": array(0, 3, 4), "n": np.array(3, np.int64)}))  # fmt: skip
    (product,) = by_operator(flow, "MatMul")
    carried = flow.nodes[product.data[0]]
    assert carried.operator == "Loop"
    assert [flow.nodes[n].operator for n in carried.data] == ["Flatten", "Relu"]
    relu = flow.nodes[carried.data[1]]
    assert [flow.nodes[n] for n in relu.data] == [carried]


def test_the_scale_of_a_quantisation_on_the_run_is_no_path_of_its_own():
    chain = (
        "DynamicQuantizeLinear x > q s z; ConvInteger q wq z > i; Cast i > g | to=1; Mul s ws > t; Mul g t > a; "
        "GlobalAveragePool a > p; Flatten p > f"
    )
    flow = followed(head(chain, wq=np.ones((3, 3, 3, 3), np.uint8), ws=np.float32(0.1)))
    assert sorted(len(node.data) for node in by_operator(flow, "Mul")) == [1, 2]
    other = followed(head(chain.replace("Mul s ws > t", "DynamicQuantizeLinear r > _1 u _2; Mul u ws > t")
                          .replace("DynamicQuantizeLinear x", "Relu x > r; DynamicQuantizeLinear x"),
                          wq=np.ones((3, 3, 3, 3), np.uint8), ws=np.float32(0.1)))  # fmt: skip
    assert all(len(node.data) == 2 for node in by_operator(other, "Mul"))


def test_a_part_of_the_graph_computes_what_its_node_holds():
    model = classifier()
    flow = followed(model)
    relu = next(n for n, node in enumerate(flow.nodes) if node.operator == "Relu")
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    value = flow.prefix(relu)(x)
    weight, bias = (torch.tensor(onnx.numpy_helper.to_array(one)) for one in model.graph.initializer[:2])
    expected = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1)).flatten(1)
    torch.testing.assert_close(value, expected)
    assert value.requires_grad


def test_a_second_output_is_remarked():
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("y", "f")]
    model = make_model(nodes(f"{POOLED}f; MatMul f w > y"), {"w": array(0, 3, 4)}, outputs=outputs)
    assert followed(model).notes == ("2 outputs",)


def test_large_weights_are_not_kept():
    flow = followed(head(f"{POOLED}a; MatMul a big > b; MatMul b back > f", big=np.zeros((3, 30000), np.float32),
                         back=np.zeros((30000, 3), np.float32)))  # fmt: skip
    held = {node.place: node.values for node in flow.nodes if node.role == "stored"}
    assert held["big"] is None
    assert held["w"].dtype == np.float64


def test_where_the_greatest_stand_is_a_comparison():
    text = f"{POOLED}q; TopK q k > v i | axis=1; Cast i > h | to=1; Add v h > f"
    model = head(text, k=np.array([3]))
    values, places = by_operator(followed(model), "TopK")
    assert (values.role, places.role) == ("order", "step")
