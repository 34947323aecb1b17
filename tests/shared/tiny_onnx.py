"""Tiny ONNX graphs, and the path from a protobuf object to what the package reads."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from formats.model import Source
from formats.onnx.manifest import read_manifest
from formats.onnx.opener import open_file


def nodes(text):
    """Nodes written as ``Operator input - input > output | attribute=value; …``; a dash leaves an input out."""
    made = []
    for line in text.split("; "):
        line, _, attributes = line.partition(" | ")
        (operator, *inputs), outputs = (part.split() for part in line.split(">"))
        inputs = ["" if name == "-" else name for name in inputs]
        made.append(helper.make_node(operator, inputs, outputs, **eval(f"dict({attributes})")))
    return made


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
    chain = nodes(
        "Conv x conv.weight conv.bias > a | kernel_shape=[3, 3], pads=[1, 1, 1, 1]; Relu a > b; "
        "GlobalAveragePool b > c; Flatten c > d; Gemm d fc.weight fc.bias > y | transB=1"
    )
    initializers = {
        "conv.weight": array(0, 6, 3, 3, 3, scale=0.3),
        "conv.bias": array(1, 6),
        "fc.weight": array(2, 4, 6),
        "fc.bias": array(3, 4),
    }
    return make_model(chain, initializers, opset=opset, **settings)


def halved():
    """The classifier in float16."""
    model = classifier(dtype=TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    return model


def tied(model):
    """A copy of ``model`` whose two initializers lie on one range of an external file, and that file."""
    copy, files = externalised(model)
    for entry in copy.graph.initializer[1].external_data:
        if entry.key == "offset":
            entry.value = "0"
    return copy, files


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
