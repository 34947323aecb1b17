"""onnxruntime from one byte string."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import tiny_onnx as tiny
import torch

from formats.errors import Unsupported
from formats.onnx.headless import HeadRuntime
from formats.onnx.manifest import read_manifest
from formats.onnx.serving import serve


def plain(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x})[0]).float()


def test_is_what_onnxruntime_computes():
    x = tiny.images(5, 3, 8, 8)
    got = serve(tiny.source_of(tiny.classifier()))(x)
    assert torch.equal(got, plain(tiny.classifier(), x.numpy()))
    fixed = serve(tiny.source_of(tiny.classifier(shape=(2, 3, 8, 8))))(x)
    torch.testing.assert_close(fixed, got)
    half = serve(tiny.source_of(tiny.halved()))(x)
    assert got.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, plain(tiny.halved(), x.numpy().astype(np.float16)))


def test_refusals_are_sentences():
    run = serve(tiny.source_of(tiny.classifier()))
    with pytest.raises(Unsupported, match="onnxruntime refuses"):
        run(tiny.images(2, 5, 8, 8))
    model = tiny.classifier()
    model.graph.node[1].op_type = "Xor"  # not of numbers
    with pytest.raises(Unsupported, match="onnxruntime refuses"):
        serve(tiny.source_of(model))


def test_the_runtime_is_told_to_send_nothing_before_it_is_imported():
    code = """
import builtins, os
inner = builtins.__import__
def watched(name, *rest):
    if name == "onnxruntime": print(os.environ.get("ORT_DISABLE_TELEMETRY"))
    return inner(name, *rest)
builtins.__import__ = watched
import formats.onnx.serving
"""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[0] == "1"


@pytest.mark.parametrize(
    ("what", "words"), [("ir", r"IR version 99 and .* up to \d+"), ("opset", "opset 99 and .* up to")]
)
def test_a_file_that_is_too_new_is_refused_in_one_short_sentence(what, words):
    model = tiny.classifier(ir=99) if what == "ir" else tiny.classifier(opset=99)
    with pytest.raises(Unsupported, match=words) as caught:
        serve(tiny.source_of(model))
    assert len(str(caught.value)) < 160
    assert "onnxruntime_src" not in str(caught.value)
    model.graph.node[1].op_type = "Hardmax"  # unknown here: opened by onnxruntime, or not at all
    with pytest.raises(Unsupported, match=words):
        tiny.opened(model)


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_of_what_a_softmax_makes_equal_the_first_class_is_answered(last):
    """By the runtime and by the network that is opened, whatever the logits say."""
    weight = np.zeros((24, 4), np.float32)
    weight[:, 2] = 1e-9
    nodes = tiny.nodes(f"Flatten x > f; MatMul f w > z; {last} z > y | axis=1")
    model = tiny.make_model(nodes, {"w": weight}, shape=("n", 2, 3, 4), opset=13)
    x = tiny.images(3, 2, 3, 4).abs()
    served, opened = serve(tiny.source_of(model))(x), tiny.opened(model).network(x)
    assert served.argmax(1).tolist() == opened.argmax(1).tolist() == [0, 0, 0]
    source = tiny.source_of(model)
    _, logits = HeadRuntime(source, read_manifest(source)).features_and_logits(x)
    assert logits.argmax(1).tolist() == [0, 0, 0]
    weight[:, 2] = 1.0
    model = tiny.make_model(nodes, {"w": weight}, shape=("n", 2, 3, 4), opset=13)
    served, opened = serve(tiny.source_of(model))(x), tiny.opened(model).network(x)
    torch.testing.assert_close(opened.detach(), served)
    assert served.argmax(1).tolist() == [2, 2, 2]
