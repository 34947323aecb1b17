"""Graphs that onnxruntime has optimised and saved: in full where its operators are standard ones, else head-only."""

import onnxruntime
import pytest
import tiny_onnx as tiny
import torch

from formats import Source, open_model, serve

LEVELS = onnxruntime.GraphOptimizationLevel


@pytest.mark.parametrize(
    ("level", "head_only"),
    [(LEVELS.ORT_ENABLE_BASIC, False), (LEVELS.ORT_ENABLE_EXTENDED, True), (LEVELS.ORT_ENABLE_ALL, True)],
)
def test_what_onnxruntime_saved_opens_and_answers_as_before(level, head_only, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.graph_optimization_level = level
    options.log_severity_level = 3
    plain = tiny.classifier()
    onnxruntime.InferenceSession(plain.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = Source("m.onnx", (tmp_path / "m.onnx").read_bytes())
    model = open_model(source)
    assert (model.head_only, model.classes, model.head.units) == (head_only, 4, 6)
    x = tiny.images(3, 3, 8, 8)
    wanted = serve(tiny.source_of(plain))(x)
    torch.testing.assert_close(serve(source)(x), wanted, rtol=1e-4, atol=1e-5)
    answers = model.runtime.features_and_logits(x)[1] if head_only else model.network(x).detach()
    torch.testing.assert_close(answers, wanted, rtol=1e-4, atol=1e-5)
