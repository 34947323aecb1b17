"""onnxruntime from one byte string."""

import numpy as np
import onnxruntime
import pytest
import tiny_onnx as tiny
import torch

from formats.errors import Unsupported
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
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(Unsupported, match="onnxruntime refuses"):
        serve(tiny.source_of(model))
