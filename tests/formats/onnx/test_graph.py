"""The interpreter against onnxruntime, its parameters, its gradients, its handling of shapes and batches."""

import copy
import random

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_onnx as tiny
import torch
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from torch import nn

from formats.errors import Unsupported
from formats.onnx.serving import serve

node = helper.make_node


def agrees(model, x, files=None, rtol=1e-4):
    """Open ``model``, compare its logits with onnxruntime's, give back what was opened."""
    result = tiny.opened(model, files)
    wanted = serve(tiny.source_of(model, files))(x)
    with torch.no_grad():
        got = result.network(x)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= rtol * wanted.abs().max()
    return result


def gradients(result, x):
    result.network.zero_grad()
    result.network(x).square().sum().backward()
    parameters = dict(result.network.named_parameters())
    return {name: parameters[inner].grad for name, inner in result.tensors.items()}


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21, 23])
def test_every_float_tensor_is_a_trained_parameter(opset):
    x = tiny.images(5, 3, 8, 8)
    result = agrees(tiny.classifier(opset), x)
    assert set(result.tensors) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    assert result.tensors["conv.weight"] == "conv_weight"
    assert all(grad.abs().sum() > 0 for grad in gradients(result, x).values())
    assert not result.network.training


def test_a_deepcopy_is_independent():
    result = tiny.opened(tiny.classifier())
    x = tiny.images(2, 3, 8, 8)
    before = result.network(x)
    other = copy.deepcopy(result.network)
    torch.testing.assert_close(other(x), before)
    with torch.no_grad():
        other.get_parameter(result.tensors["fc.bias"]).add_(1)
    torch.testing.assert_close(other(x), before + 1)
    torch.testing.assert_close(result.network(x), before)


def test_two_consumers_share_one_parameter():
    nodes = tiny.nodes("Identity w > w_again; Flatten x > f; MatMul f w > g; MatMul g w_again > y")
    model = tiny.make_model(nodes, {"w": tiny.array(0, 3, 3)}, shape=("n", 3, 1, 1))
    x = tiny.images(4, 3, 1, 1)
    result = agrees(model, x)
    assert list(result.tensors) == ["w"]
    w = torch.from_numpy(tiny.array(0, 3, 3)).requires_grad_()
    (x.flatten(1) @ w @ w).square().sum().backward()
    torch.testing.assert_close(gradients(result, x)["w"], w.grad)


def test_initializers_on_one_external_range_share_one_parameter():
    nodes = tiny.nodes("Flatten x > f; MatMul f a > g; MatMul g b > y")
    both = {"a": tiny.array(0, 3, 3), "b": tiny.array(0, 3, 3)}
    model, files = tiny.tied(tiny.make_model(nodes, both, shape=("n", 3, 1, 1)))
    result = agrees(model, tiny.images(4, 3, 1, 1), files)
    assert result.tensors["a"] == result.tensors["b"]
    assert len(list(result.network.parameters())) == 1


def test_statistics_and_shapes_are_no_parameters():
    nodes = tiny.nodes(
        "BatchNormalization x scale shift mean var > a; Resize a - scales > b | mode='linear'; "
        "Pow b two > c; GlobalAveragePool c > d; Reshape d shape > y"
    )
    initializers = {
        "scale": tiny.array(0, 3), "shift": tiny.array(1, 3), "mean": tiny.array(2, 3),
        "var": np.abs(tiny.array(3, 3)) + 0.1, "scales": np.array([1, 1, 2, 2], np.float32),
        "two": np.array([2], np.float32), "shape": np.array([0, -1], np.int64),
    }  # fmt: skip
    result = agrees(tiny.make_model(nodes, initializers), tiny.images(2, 3, 8, 8))
    assert set(result.tensors) == {"scale", "shift"}
    assert len(list(result.network.parameters())) == 2


def test_constant_nodes_with_arrays_are_parameters():
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(tiny.array(0, 12, 4))),
        node("Constant", [], ["half"], value=numpy_helper.from_array(np.array([0.5], np.float32))),
        *tiny.nodes("Flatten x > f; MatMul f w > g; Mul g half > y"),
    ]
    x = tiny.images(2, 3, 2, 2)
    result = agrees(tiny.make_model(nodes, {}, shape=("n", 3, 2, 2)), x)
    assert list(result.tensors) == ["w"]
    assert gradients(result, x)["w"].abs().sum() > 0


def test_dead_nodes_and_their_weights_are_left_out():
    model = tiny.classifier()
    model.graph.initializer.append(numpy_helper.from_array(tiny.array(0, 6, 2), "unused"))
    model.graph.node.append(node("MatMul", ["d", "unused"], ["nowhere"]))
    model.graph.node.append(node("NonZero", ["d"], ["unknown"]))
    result = agrees(model, tiny.images(2, 3, 8, 8))
    assert result.network is not None
    assert "unused" not in result.tensors


def disordered(model, seed):
    """A copy whose nodes stand in any order."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    nodes = list(copied.graph.node)
    random.Random(seed).shuffle(nodes)
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    return copied


@pytest.mark.parametrize("seed", range(4))
def test_nodes_in_any_order_are_sorted_as_onnxruntime_sorts_them(seed):
    """Among them optional inputs, which must not vanish when they come late: bias and shift here."""
    nodes = tiny.nodes(
        "Neg shift > late; Mul late two > later; BatchNormalization x scale later mean var > a; Neg b > bias; "
        "Conv a w bias > c; Relu c > d; GlobalAveragePool d > e; Flatten e > f; "
        "ReduceMean x > n | axes=[1, 2, 3], keepdims=0; Reshape n column > m; "
        "Mul m row > branch; Gemm f v branch > y"
    )
    initializers = {
        "shift": tiny.array(0, 3), "two": np.float32(2), "scale": tiny.array(1, 3), "mean": tiny.array(2, 3),
        "var": np.abs(tiny.array(3, 3)) + 0.1, "b": tiny.array(4, 6, scale=9), "w": tiny.array(5, 6, 3, 3, 3),
        "row": tiny.array(6, 1, 4, scale=9), "v": tiny.array(7, 6, 4), "column": np.array([-1, 1]),
    }  # fmt: skip
    model = tiny.make_model(nodes, initializers)
    x = tiny.images(3, 3, 8, 8)
    wanted = tiny.opened(model).network(x)
    result = agrees(disordered(model, seed), x)
    assert torch.equal(result.network(x), wanted)
    assert set(result.tensors) == {"shift", "scale", "b", "w", "row", "v"}


@pytest.mark.parametrize("place", [1, 2])
def test_a_name_that_nothing_makes_is_no_input_left_out(place):
    model = tiny.classifier()
    model.graph.node[0].input[place] = "nothing"
    with pytest.raises(Unsupported, match="'nothing'"):
        tiny.opened(model)
    with pytest.raises(InvalidArgument, match="'nothing' is not"):
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_size_that_follows_from_the_image_has_a_bound():
    nodes = tiny.nodes(
        "Shape x > s; Mul s many > t; ConstantOfShape t > c; ReduceMax c > m | keepdims=0; Add x m > y"
    )
    result = tiny.opened(tiny.make_model(nodes, {"many": np.array(1000)}))
    with pytest.raises(Unsupported, match="out of nothing"):
        result.network(tiny.images(1, 3, 8, 8))


def test_half_precision_is_computed_in_float32():
    x = tiny.images(3, 3, 8, 8)
    result = agrees(tiny.halved(), x, rtol=5e-3)
    assert {one.dtype for one in result.network.parameters()} == {torch.float32}
    assert result.network(x).dtype == torch.float32
    half = dict(result.network.named_parameters())["fc_weight"].detach()
    assert torch.equal(half, half.half().float())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_fixed_batch_sizes(count):
    nodes = tiny.nodes("Reshape x shape > f; Gemm f w b > y")
    initializers = {"shape": np.array([3, 12], np.int64), "w": tiny.array(0, 12, 4), "b": tiny.array(1, 4)}
    model = tiny.make_model(nodes, initializers, shape=(3, 3, 2, 2))
    x = tiny.images(count, 3, 2, 2)
    result = agrees(model, x)
    assert result.input.batch == 3
    whole = x.flatten(1) @ torch.from_numpy(initializers["w"]) + torch.from_numpy(initializers["b"])
    torch.testing.assert_close(result.network(x).detach(), whole)


def shaped():
    """Keeps the image's spatial size by shape arithmetic, as the legacy exporter writes it."""
    nodes = tiny.nodes(
        "Shape x > s; Gather s first > n; Gather s third > h; Mul h factor > hh; "
        "Unsqueeze n zero > n1; Concat n1 three minus > target | axis=0; Reshape x target > r; "
        "Cast hh > hf | to=TensorProto.FLOAT; Div r hf > q; ReduceMean q > m | axes=[2], keepdims=0; "
        "MatMul m w > y"
    )
    initializers = {
        "first": np.array(0), "third": np.array(2), "factor": np.array(2), "zero": np.array([0]),
        "three": np.array([3]), "minus": np.array([-1]), "w": tiny.array(0, 3, 4),
    }  # fmt: skip
    return tiny.make_model(nodes, initializers, shape=("n", 3, "h", "w"))


def test_shapes_follow_the_input():
    model = shaped()
    result = tiny.opened(model)
    runtime = serve(tiny.source_of(model))
    for size in ((2, 4, 4), (3, 4, 4), (2, 6, 4), (2, 4, 4), (2, 8, 8), (1, 5, 7), (2, 4, 4)):
        x = tiny.images(size[0], 3, *size[1:])
        torch.testing.assert_close(result.network(x).detach(), runtime(x), rtol=1e-4, atol=1e-5)


def test_shapes_remembered_in_inference_mode_serve_training():
    result = tiny.opened(shaped())
    x = tiny.images(2, 3, 4, 4)
    with torch.inference_mode():
        result.network(x)
    result.network(x).sum().backward()
    assert result.network.get_parameter("w").grad is not None


def test_a_shape_that_depends_on_pixels_is_not_remembered():
    nodes = tiny.nodes(
        "ReduceMax x > top | keepdims=0; Cast top > k | to=TensorProto.INT64; Unsqueeze k zero > k1; "
        "Concat one k1 > repeats | axis=0; Flatten x > f; MatMul f w > g; Tile g repeats > t; "
        "ReduceSum t last > total | keepdims=1; Add g total > y"
    )
    initializers = {
        "zero": np.array([0]), "one": np.array([1]), "last": np.array([1]), "w": tiny.array(0, 3, 2),
    }  # fmt: skip
    model = tiny.make_model(nodes, initializers, shape=("n", 3, 1, 1))
    result = tiny.opened(model)
    runtime = serve(tiny.source_of(model))
    for top in (2.0, 5.0, 3.0):
        x = torch.full((2, 3, 1, 1), top)
        torch.testing.assert_close(result.network(x).detach(), runtime(x))


def test_clashing_and_odd_names():
    nodes = tiny.nodes("Flatten x > f; MatMul f a.b > g; Add g a/b > h; Add h forward > i; Add i :: > y")
    initializers = {
        "a.b": tiny.array(0, 3, 2), "a/b": tiny.array(1, 2), "forward": tiny.array(2, 2), "::": tiny.array(3, 2),
    }  # fmt: skip
    result = agrees(tiny.make_model(nodes, initializers, shape=("n", 3, 1, 1)), tiny.images(2, 3, 1, 1))
    assert len(set(result.tensors.values())) == 4


@pytest.mark.gpu
def test_on_cuda():
    for model, shape in ((tiny.classifier(), (3, 3, 8, 8)), (shaped(), (3, 3, 4, 4))):
        x = tiny.images(*shape)
        network = tiny.opened(model).network
        wanted = network(x).detach()
        got = network.to("cuda")(x.cuda())
        torch.testing.assert_close(got.cpu(), wanted, rtol=1e-2, atol=1e-3)


class Attention(nn.Module):
    """A small image transformer with what exporters make many nodes of."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 5)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        n = x.shape[0]
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(n, -1, -1), h], 1)
        q, k, v = self.qkv(self.norm(h)).reshape(n, -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
        h = h + a.transpose(1, 2).reshape(n, -1, 16)
        return self.head((h + self.mlp(self.norm(h)))[:, 0])


class Convolutions(nn.Module):
    """Batch norm before and behind, depthwise, squeeze and excitation, ceil-mode pooling, channel shuffle."""

    def __init__(self):
        super().__init__()
        self.before, norm = nn.BatchNorm2d(3), nn.BatchNorm2d(8)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm, nn.Hardswish())
        self.depth = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.pool, self.head = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Linear(8, 5)
        for one in (self.before, norm):
            one.running_mean.normal_(0, 0.2)
            one.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        h = torch.nn.functional.relu6(self.stem(self.before(x)))
        h = self.depth(h) * self.gate(h)
        n, c, height, width = h.shape
        h = h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.head(self.pool(h).mean((2, 3)))


LEGACY = [(kind, opset) for kind in (Attention, Convolutions) for opset in (9, 11, 13, 17)]
LEGACY.remove((Convolutions, 9))  # the exporter has no hard swish below opset 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "opset"), [*LEGACY, (Attention, None), (Convolutions, None)])
def test_exports(kind, opset, tmp_path):
    """Of the exporter by tracing at an opset, and of the newer one with external data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = kind().eval()
    x, path = tiny.images(2, 3, 16, 16), tmp_path / "m.onnx"
    settings = {"dynamo": True, "external_data": True, "dynamic_shapes": ({0: "n"},), "verbose": False}
    if opset:
        axes = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"], "output_names": ["y"]}
        settings = {"dynamo": False, "opset_version": opset, **axes}
    torch.onnx.export(original, (x,), str(path), **settings)
    model = onnx.load(str(path), load_external_data=False)
    files = {one.name: one.read_bytes() for one in path.parent.iterdir() if one != path}
    x = tiny.images(5, 3, 16, 16, seed=3)
    result = agrees(model, x, files)
    with torch.no_grad():
        torch.testing.assert_close(result.network(x), original(x), rtol=1e-4, atol=1e-5)
    assert all(grad is not None for grad in gradients(result, x).values())
    weights = sum(one.numel() for one in original.parameters())
    found = sum(one.numel() for one in result.network.parameters())
    assert found >= 0.9 * weights
