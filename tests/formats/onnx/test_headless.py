"""Head-only opening: quantised graphs and unknown operators."""

import numpy as np
import onnx
import pytest
import tiny_onnx as tiny
import torch
from onnx import helper, numpy_helper

from formats.errors import Unsupported
from formats.onnx.manifest import read_manifest
from formats.onnx.opener import open_file
from formats.onnx.patch import patch
from formats.onnx.serving import serve

node = helper.make_node


def quantised(per_channel=False, transposed=True, bias=True):
    """QDQ around a Gemm whose weight and bias are stored in int8 and int32."""
    weight, offset = tiny.array(2, 4, 6), tiny.array(3, 4)
    scale = np.abs(weight).max(1) / 127 if per_channel else np.abs(weight).max() / np.float32(127)
    scale = scale.astype(np.float32)
    stored = np.rint(weight / (scale[:, None] if per_channel else scale)).astype(np.int8)
    step = np.float32(0.05)
    nodes = [
        *tiny.nodes(
            "Conv x conv > a | pads=[1, 1, 1, 1]; Relu a > b; GlobalAveragePool b > c; Flatten c > d; "
            "QuantizeLinear d step zero > q; DequantizeLinear q step zero > h"
        ),
        node("DequantizeLinear", ["fc", "scale", "fc_zero"], ["w"], axis=0 if transposed else 1),
        *tiny.nodes("DequantizeLinear fc_bias bias_scale > bias | axis=0"),
        node("Gemm", ["h", "w", "bias"] if bias else ["h", "w"], ["y"], transB=int(transposed)),
    ]
    initializers = {
        "conv": tiny.array(0, 6, 3, 3, 3), "step": step, "zero": np.uint8(3), "scale": scale,
        "fc": stored if transposed else np.ascontiguousarray(stored.T), "fc_zero": np.zeros_like(scale, dtype=np.int8),
        "fc_bias": np.rint(offset / (scale * step)).astype(np.int32), "bias_scale": scale * step,
    }  # fmt: skip
    if not bias:
        del initializers["fc_bias"], initializers["bias_scale"], nodes[7]
    return tiny.make_model(nodes, initializers)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_int8_head(per_channel, transposed):
    model = quantised(per_channel, transposed)
    source = tiny.source_of(model)
    manifest = read_manifest(source)
    result = open_file(source, manifest, None)
    assert result.network is None
    assert "quantised" in result.notes[0]
    head = result.head
    assert (head.weight, head.bias, head.units, head.classes) == ("fc", "fc_bias", 6, 4)
    assert head.layout == ("out_in" if transposed else "in_out")
    x = tiny.images(5, 3, 8, 8)
    features, logits = result.runtime.features_and_logits(x)
    weight, bias = result.runtime.head_values()
    torch.testing.assert_close(weight, torch.from_numpy(tiny.array(2, 4, 6)), rtol=0, atol=0.02)
    torch.testing.assert_close(bias, torch.from_numpy(tiny.array(3, 4)), rtol=0, atol=0.01)
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, serve(source)(x))
    assert not result.runtime.head_edit(weight, bias)

    edit = result.runtime.head_edit(weight * 0.5, bias - 0.2)
    assert {name: new.dtype for name, new in edit.tensors.items()} == {"fc": "I8", "fc_bias": "I32"}
    after = result.runtime.with_edit(edit)
    new_weight, new_bias = after.head_values()
    step = weight.abs().max() / 127
    assert (new_weight - weight * 0.5).abs().max() <= 0.51 * step
    new_features, new_logits = after.features_and_logits(x)
    torch.testing.assert_close(new_features, features)
    torch.testing.assert_close(new_features @ new_weight.T + new_bias, new_logits, rtol=1e-4, atol=1e-4)

    written = onnx.load_from_string(patch(source, manifest, edit)[""])
    before = {one.name: one for one in model.graph.initializer}
    changed = [one.name for one in written.graph.initializer if one != before[one.name]]
    assert sorted(changed) == ["fc", "fc_bias"]


def test_values_beyond_the_scale_are_clipped():
    runtime = tiny.opened(quantised()).runtime
    weight, _ = runtime.head_values()
    edit = runtime.head_edit(weight * 100, None)
    assert set(edit.tensors) == {"fc"}
    stored = np.frombuffer(edit.tensors["fc"].data, np.int8)
    assert (stored.min(), stored.max()) == (-128, 127)


def test_without_bias():
    result = tiny.opened(quantised(bias=False))
    assert result.head.bias is None
    weight, bias = result.runtime.head_values()
    assert torch.equal(bias, torch.zeros(4))
    assert set(result.runtime.head_edit(weight * 0.5, bias + 1).tensors) == {"fc"}


def unknown(end):
    """com.microsoft's Gelu, which onnxruntime computes and the importer does not know, then ``end``."""
    nodes = [
        *tiny.nodes("Conv x conv > a | pads=[1, 1, 1, 1]; Gelu a > b | name='odd', domain='com.microsoft'"),
        *end,
    ]
    initializers = {"conv": tiny.array(0, 6, 3, 3, 3), "w": tiny.array(1, 6, 4), "bias": tiny.array(2, 4),
                    "kernel": tiny.array(3, 4, 6, 1, 1), "shape": np.array([0, -1])}  # fmt: skip
    model = tiny.make_model(nodes, initializers)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_unknown_operator_before_matmul_and_add():
    end = tiny.nodes("GlobalAveragePool b > c; Flatten c > d; MatMul d w > e; Add bias e > y")
    result = tiny.opened(unknown(end))
    assert "com.microsoft::Gelu-17 (1x: odd)" in result.notes[0]
    assert (result.head.weight, result.head.bias, result.head.layout) == ("w", "bias", "in_out")
    features, logits = result.runtime.features_and_logits(tiny.images(3, 3, 8, 8))
    weight, bias = result.runtime.head_values()
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=1e-4, atol=1e-5)
    edit = result.runtime.head_edit(weight + 1, bias)
    assert np.array_equal(np.frombuffer(edit.tensors["w"].data, "<f4").reshape(6, 4), tiny.array(1, 6, 4) + 1)


def test_unknown_operator_before_a_conv_head():
    end = tiny.nodes("Conv b kernel bias > c; GlobalAveragePool c > d; Reshape d shape > y")
    result = tiny.opened(unknown(end))
    assert (result.head.layout, result.head.linear) == ("conv", True)
    features, logits = result.runtime.features_and_logits(tiny.images(3, 3, 8, 8))
    weight, bias = result.runtime.head_values()
    assert features.shape == (3, 6)
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=1e-4, atol=1e-5)
    after = result.runtime.with_edit(result.runtime.head_edit(weight * 2, bias * 2))
    torch.testing.assert_close(after.features_and_logits(tiny.images(3, 3, 8, 8))[1], logits * 2)


def test_a_head_followed_by_relu_is_not_linear():
    end = tiny.nodes("Conv b kernel bias > c; Relu c > r; GlobalAveragePool r > d; Reshape d shape > y")
    assert not tiny.opened(unknown(end)).head.linear


def test_nodes_in_any_order():
    x = tiny.images(5, 3, 8, 8)
    end = tiny.nodes("GlobalAveragePool b > c; Flatten c > d; MatMul d w > e; Add bias e > y")
    for model in (quantised(), unknown(end)):
        wanted = tiny.opened(model).runtime
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        result = tiny.opened(model)
        assert result.network is None
        for got, value in zip(
            result.runtime.features_and_logits(x), wanted.features_and_logits(x), strict=True
        ):
            assert torch.equal(got, value)
        assert torch.equal(result.runtime.head_values()[1], wanted.head_values()[1])


def test_without_a_head_the_unknown_operators_are_named():
    end = [node("ReduceMax", ["b"], ["y"], axes=[2, 3], keepdims=0)]
    with pytest.raises(Unsupported, match=r"com\.microsoft::Gelu"):
        tiny.opened(unknown(end))


@pytest.mark.parametrize("layout", ["QDQ", "QOperator"])
def test_onnxruntimes_own_quantisation(layout, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    batches = iter([{"x": tiny.images(8, 3, 8, 8, seed=seed).numpy()} for seed in range(3)])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(batches, None)

    onnx.save(tiny.classifier(), str(tmp_path / "float.onnx"))
    quantization.quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Reader(),
        quant_format=quantization.QuantFormat[layout], weight_type=quantization.QuantType.QInt8,
        reduce_range=True,  # else processors without VNNI add with saturation, fused and not fused apart
    )  # fmt: skip
    model = onnx.load(str(tmp_path / "int8.onnx"))
    result = tiny.opened(model)
    assert result.network is None
    x = tiny.images(8, 3, 8, 8)
    weight, bias = result.runtime.head_values()
    whole = {one.name: numpy_helper.to_array(one) for one in tiny.classifier().graph.initializer}
    torch.testing.assert_close(weight, torch.from_numpy(whole["fc.weight"].copy()), rtol=0, atol=0.02)
    features, logits = result.runtime.features_and_logits(x)
    torch.testing.assert_close(logits, serve(tiny.source_of(model))(x))
    # The logits are rounded to eight bits, and clipped to what calibration saw.
    inside = (logits < logits.max()) & (logits > logits.min())
    assert (features @ weight.T + bias - logits)[inside].abs().max() < 0.05
    after = result.runtime.with_edit(result.runtime.head_edit(weight * 0.5, bias * 0.5))
    assert not torch.equal(after.features_and_logits(x)[1], logits)
