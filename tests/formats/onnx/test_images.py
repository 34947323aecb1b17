"""Images as graphs take them: channels last, one at a time, open sizes, bytes that are scaled inside."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_onnx as tiny
import torch
from onnx import TensorProto, helper

from formats import Source, edit_of, inspect, open_model, serve, trace, write_edit
from formats.dataflow import Span
from formats.errors import Unsupported
from formats.onnx import images, proto

FLOAT, UINT8, INT32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT32

#: Name → shape and type of the input, what turns it into ``i`` [N,C,H,W] in 0..1, and the axes.
LAYOUTS = {
    "bytes": (("n", 3, 8, 8), UINT8, "Cast x > f | to=1; Div f s > i", "NCHW"),
    "bytes, channels last": (
        ("n", 8, 8, 3), UINT8, "Cast x > f | to=1; Div f s > g; Transpose g > i | perm=[0, 3, 1, 2]", "NHWC",
    ),
    "bytes moved before they are floats": (
        ("n", 8, 8, 3), INT32, "Transpose x > t | perm=[0, 3, 1, 2]; Cast t > f | to=1; Div f s > i", "NHWC",
    ),
    "channels last": (("n", 8, 8, 3), FLOAT, "Transpose x > i | perm=[0, 3, 1, 2]", "NHWC"),
    "channels last, open sizes": (("n", "h", "w", 3), FLOAT, "Transpose x > i | perm=[0, 3, 1, 2]", "NHWC"),
    "all open, channels last behind scaling": (
        (None,) * 4, FLOAT, "Mul x one > m; Transpose m > i | perm=[0, 3, 1, 2]", "NHWC",
    ),
    "all open": ((None,) * 4, FLOAT, "Mul x one > i", "NCHW"),
    "one image, channels last": (
        (8, 8, 3), FLOAT, "Transpose x > t | perm=[2, 0, 1]; Unsqueeze t zero > i", "HWC",
    ),
    "one image": ((3, 8, 8), FLOAT, "Unsqueeze x zero > i", "CHW"),
}  # fmt: skip


def packed(layout, squeezed=False):
    shape, dtype, before, _ = LAYOUTS[layout]
    model = tiny.classifier(shape=shape)
    model.graph.input[0].type.tensor_type.elem_type = dtype
    model.graph.node[0].input[0] = "i"
    rest = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*tiny.nodes(before), *rest])
    for name, value in (("s", 255.0), ("one", 1.0), ("zero", [0])):
        stored = np.array(value, dtype=np.int64 if name == "zero" else np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(stored, name))
    if squeezed:
        model.graph.node[-1].output[0] = "z"
        model.graph.node.extend(tiny.nodes("Squeeze z zero > y"))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [4]))
    onnx.checker.check_model(model)
    return model


def as_its_caller(model, layout, pixels):
    """Logits of uint8 [N,C,H,W] as an app asks for them, in onnxruntime alone."""
    _, dtype, _, axes = LAYOUTS[layout]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = pixels.numpy().astype({FLOAT: np.float32, UINT8: np.uint8, INT32: np.int32}[dtype])
    x = x / np.float32(255) if dtype == FLOAT else x
    x = np.moveaxis(x, 1, -1) if axes.endswith("C") else x
    parts = [x] if axes.startswith("N") else x
    return torch.from_numpy(
        np.concatenate([session.run(None, {"x": part})[0].reshape(-1, 4) for part in parts])
    )


@pytest.mark.parametrize(
    ("layout", "squeezed"),
    [*((name, False) for name in LAYOUTS), ("one image", True), ("one image, channels last", True)],
)
def test_opened_and_served_as_its_caller_runs_it(layout, squeezed):
    shape, dtype, _, _ = LAYOUTS[layout]
    model = packed(layout, squeezed)
    source = Source("m.onnx", model.SerializeToString())
    opened = open_model(source)
    assert (opened.input.channels, opened.input.whole) == (3, dtype != FLOAT)
    assert (opened.input.height is None) == (None in shape or "h" in shape)
    pixels = torch.randint(
        0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = pixels.float() if opened.input.whole else pixels.float() / 255
    wanted = as_its_caller(model, layout, pixels)
    torch.testing.assert_close(
        serve(source)(x + 0.3 if opened.input.whole else x), wanted, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(opened.network(x).detach(), wanted, rtol=1e-4, atol=1e-5)
    assert opened.head.linear
    assert opened.head.units == 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_changed_is_written(layout):
    source = Source("m.onnx", packed(layout).SerializeToString())
    opened = open_model(source)
    network = copy.deepcopy(opened.network)
    with torch.no_grad():
        opened.named(network)["fc.bias"].add_(1)
    written = write_edit(source, inspect(source), edit_of(opened, network))[""]
    changed = [i for i, (a, b) in enumerate(zip(source.data, written, strict=True)) if a != b]
    place = inspect(source).tensors["fc.bias"]
    assert changed
    assert place.offset <= min(changed)
    assert max(changed) < place.offset + place.length
    x = torch.full((2, 3, 8, 8), 7.0)
    again = serve(Source("m.onnx", written))(x)
    torch.testing.assert_close(again, serve(source)(x) + 1)


def test_bytes_have_a_gradient_and_are_whole():
    opened = open_model(Source("m.onnx", packed("bytes").SerializeToString()))
    x = torch.full((2, 3, 8, 8), 100.4, requires_grad=True)
    logits = opened.network(x)
    torch.testing.assert_close(logits, opened.network(x.detach().round()))
    logits[:, 0].sum().backward()
    assert bool((x.grad != 0).any())
    torch.testing.assert_close(opened.network(x.detach() + 900), opened.network(torch.full_like(x, 255.0)))


def test_whole_numbers_are_not_computed_with():
    model = packed("bytes")
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "x"], ["u"]))
    model.graph.node.insert(1, helper.make_node("Cast", ["u"], ["f"], to=1))
    with pytest.raises(Unsupported, match=r"whole numbers of its images \(Add\)"):
        open_model(Source("m.onnx", model.SerializeToString()))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        (("n", 3, 8, 8), "NCHW"),
        (("n", 224, 224, 3), "NHWC"),
        (("n", 28, 28, 1), "NHWC"),
        (("n", 12, 8, 8), "NCHW"),
        (("n", 3, 1, 1), "NCHW"),
        (("n", 3, "h", "w"), "NCHW"),
        ((224, 224, 3), "HWC"),
        ((1, 28, 28), "CHW"),
        (("n", 28, 28), "NHW"),
    ],
)
def test_axes_by_the_shape(shape, axes):
    assert proto.signature(tiny.classifier(shape=shape)).axes == axes


def test_grey_pictures_without_an_axis_of_channels():
    chain = tiny.nodes("Flatten x > f; Gemm f w > y")
    model = tiny.make_model(chain, {"w": tiny.array(0, 64, 4)}, shape=("n", 8, 8))
    opened = open_model(Source("m.onnx", model.SerializeToString()))
    assert (opened.input.channels, opened.input.height, opened.input.batch) == (1, 8, None)
    x = tiny.images(3, 1, 8, 8)
    wanted = torch.from_numpy(x.flatten(1).numpy() @ tiny.array(0, 64, 4))
    torch.testing.assert_close(opened.network(x).detach(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "before", "axes", "wanted"),
    [
        ("NHWC", "Slice x one two one > c; Transpose c > t | perm=[0, 3, 1, 2]", [1], 2),
        ("NHWC", "Transpose x > t | perm=[0, 3, 1, 2]; Slice t one two three > c", [3], 3),
        ("NCHW", "Transpose x > u | perm=[0, 2, 3, 1]; Slice u one two one > c", [1], 2),
    ],
)
def test_places_in_the_image_are_told_in_its_own_order(layout, before, axes, wanted):
    """What is cut out is rows and columns, wherever a file has those."""
    shape = ("n", 8, 8, 3) if layout == "NHWC" else ("n", 3, 8, 8)
    values = {"one": [1], "two": [2], "three": [3]}
    last = "c" if "> c; " not in before else "t"
    chain = tiny.nodes(f"{before}; ReduceMean {last} > f | axes=[2, 3], keepdims=0; MatMul f w > y")
    weights = {name: np.array(value) for name, value in values.items()}
    model = tiny.make_model(chain, {**weights, "w": tiny.array(0, 3, 4)}, shape=shape)
    flow = trace(Source("m.onnx", model.SerializeToString()))
    (cut,) = (node for node in flow.nodes if node.operator == "Slice")
    assert cut.spans == (Span(wanted, 1, 2),)
    assert flow.shape == (None, 3, 8, 8)


def test_axes_are_followed():
    transpose = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])
    assert images.after("NHWC", transpose) == "NCHW"
    assert images.after("HWC", transpose) == ""
    assert images.after("HWC", helper.make_node("Transpose", ["x"], ["y"])) == "CWH"
    assert images.after("NHWC", helper.make_node("Mul", ["x", "s"], ["y"])) == "NHWC"
    assert images.after("NHWC", helper.make_node("Reshape", ["x", "s"], ["y"])) == ""
