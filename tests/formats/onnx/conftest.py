"""Tiny ONNX graphs, and the path from a protobuf object to what the package reads."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from formats.model import Source
from formats.onnx.manifest import read_manifest
from formats.onnx.opener import open_file


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def array(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def make_model(
    nodes, initializers, shape=("n", 3, 8, 8), opset=17, outputs=None, dtype=TensorProto.FLOAT, ir=8
):
    """A ModelProto with input ``x`` and output ``y`` [N,K]; ``initializers``: name → array."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", dtype, shape)],
        outputs or [helper.make_tensor_value_info("y", dtype, [shape[0], None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="tests", ir_version=ir
    )


def classifier(opset=17, **settings):
    """Conv, Relu, global average pooling, Gemm: 4 classes."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    initializers = {
        "conv.weight": array(0, 6, 3, 3, 3, scale=0.3),
        "conv.bias": array(1, 6),
        "fc.weight": array(2, 4, 6),
        "fc.bias": array(3, 4),
    }
    return make_model(nodes, initializers, opset=opset, **settings)


def source_of(model, files=None):
    return Source("model.onnx", model.SerializeToString(), files or {})


def opened(model, files=None):
    source = source_of(model, files)
    return open_file(source, read_manifest(source))


def externalised(model, location="weights.data", least=0):
    """A copy of ``model`` whose tensors lie in one external file, and that file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blob = bytearray()
    for tensor in copy.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < least:
            continue
        blob += bytes(-len(blob) % 64)
        onnx.external_data_helper.set_external_data(tensor, location, len(blob), len(raw))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        blob += raw
    return copy, {location: bytes(blob)}


def images(*shape, seed=7):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def tiny():
    """The functions above, since test modules cannot import one another."""
    return SimpleNamespace(
        array=array,
        make_model=make_model,
        classifier=classifier,
        source_of=source_of,
        opened=opened,
        externalised=externalised,
        images=images,
    )
