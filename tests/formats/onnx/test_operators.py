"""Every operator in every version against onnxruntime; the table against the schemas of onnx."""

import inspect
import math
import re
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from formats.onnx.graph import _resolve
from formats.onnx.operators import OPERATORS, SHAPE_INPUTS, lookup
from formats.onnx.proto import _keywords


def newest_opset():
    """The newest opset that the installed onnxruntime runs."""
    for opset in range(onnx.defs.onnx_opset_version(), 20, -1):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", [value], [value])
        graph.output[0].name = "y"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            continue
        return opset
    raise AssertionError("onnxruntime runs no recent opset")


NEWEST = newest_opset()


def rand(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


def scalar(value, dtype=np.int64):
    return np.array(value, dtype=dtype)


X3, X4, X5 = rand(2, 3, 4), rand(2, 3, 5, 6, seed=1), rand(2, 2, 4, 5, 3, seed=2)
POSITIVE = rand(2, 3, 4, low=0.1, high=3.0)
WHOLE = np.array([[7, -7, 5], [-5, 3, -1]], dtype=np.int64)
DIVISOR = np.array([[2, 2, -3], [3, -2, 2]], dtype=np.int64)
BOOLS = rand(2, 3, 4, seed=9) > 0


def unary(x=X3):
    return lambda version: [([x], {}), ([x[0, 0]], {})]


def binary(version):
    yield [X3, rand(3, 1, seed=3)], {}
    yield [X3, scalar(1.5, np.float32)], {}
    if version >= 7:
        yield [WHOLE, DIVISOR], {}


def compared(version):
    yield [X3, rand(3, 1, seed=3)], {}
    if version >= 11:
        yield [WHOLE, ints(3)], {}


def logic(version):
    yield [BOOLS, BOOLS[:1]], {}


def variadic(version):
    yield [X3], {}
    yield [X3, rand(3, 1, seed=3), rand(1, 4, seed=4)], {}


def conv(version):
    w = rand(4, 3, 3, 2, seed=3)
    yield [X4, w, rand(4, seed=4)], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "strides": [2, 1]}
    yield [X4, w], {"pads": [0, 1, 2, 0]}
    yield [X4, w], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    yield [X4, w], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}
    yield [X4, w], {"auto_pad": "VALID", "dilations": [2, 1]}
    yield [X4, rand(6, 1, 3, 3, seed=5)], {"group": 3, "pads": [1, 1, 1, 1]}
    yield [X3, rand(2, 3, 3, seed=6)], {"pads": [2, 0]}
    yield [X5, rand(2, 2, 2, 2, 2, seed=7)], {"strides": [1, 2, 1]}


def conv_transpose(version):
    w = rand(3, 2, 3, 2, seed=3)
    yield [X4, w, rand(2, seed=4)], {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 1]}
    yield [X4, w], {"pads": [1, 0, 0, 1], "strides": [2, 2]}
    yield [X4, w], {"strides": [2, 2], "output_shape": [10, 12]}
    if version >= 11:
        yield [X4, w], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}
    yield [X4, rand(3, 1, 3, 3, seed=5)], {"group": 3, "dilations": [2, 1]}


def gemm(version):
    a, b, c = rand(2, 3), rand(3, 4, seed=1), rand(4, seed=2)
    yield [a, b, c], {}
    yield [a.T.copy(), b.T.copy(), c], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    yield [a, b, rand(2, 1, seed=4)], {}
    yield [a, b, scalar(0.3, np.float32)], {"beta": 0.5}
    if version >= 11:
        yield [a, b], {"alpha": 2.0}
        yield [a, b, None], {}


def matmul(version):
    yield [rand(2, 3), rand(3, 4)], {}
    yield [rand(2, 1, 2, 3), rand(3, 3, 4)], {}
    yield [rand(3), rand(2, 3, 4)], {}


def batch_norm(version):
    yield [X4, rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3, low=0.1)], {"epsilon": 1e-3}
    yield [X3[:, :, 0], rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3, low=0.1)], {}
    yield [X5, rand(2), rand(2, seed=1), rand(2, seed=2), rand(2, seed=3, low=0.1)], {}


def layer_norm(version):
    yield [X4, rand(6), rand(6, seed=1)], {"epsilon": 1e-3}
    yield [X4, rand(5, 6)], {"axis": -2}
    yield [X4, rand(3, 5, 6), rand(3, 5, 6, seed=1)], {"axis": 1}


def max_pool(version):
    yield [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    yield [X4 - 5], {"kernel_shape": [2, 3], "pads": [0, 1, 1, 0]}
    yield [X4 - 5], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    yield [X4 - 5], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}
    yield [X3], {"kernel_shape": [2]}
    yield [X5], {"kernel_shape": [2, 2, 2]}
    if version >= 10:
        yield [X4 - 5], {"kernel_shape": [2, 3], "strides": [2, 4], "ceil_mode": 1}
        yield [X4 - 5], {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 0, 1, 0]}
        yield [X4], {"kernel_shape": [2, 2], "dilations": [2, 3]}


def average_pool(version):
    yield [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    yield [X4], {"kernel_shape": [2, 3], "pads": [0, 1, 1, 0]}
    yield [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    yield [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    yield [X4], {"kernel_shape": [2, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}
    yield [X3], {"kernel_shape": [2]}
    if version >= 10:
        yield [X4], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
        yield [X4], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}
    if version >= 19:
        settings = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}
        yield [X4], {**settings, "count_include_pad": 1}
        yield [X4], {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]}


def reduction(by_input):
    def cases(version):
        if version < by_input:
            yield [POSITIVE], {"axes": [-1]}
            yield [POSITIVE], {"axes": [0, 2], "keepdims": 0}
        else:
            yield [POSITIVE, ints(-1)], {}
            yield [POSITIVE, ints(0, 2)], {"keepdims": 0}
            yield [POSITIVE, None], {"keepdims": 0}
        yield [POSITIVE], {}

    return cases


def noop_reduction(by_input):
    def cases(version):
        yield from reduction(by_input)(version)
        if version >= by_input:
            yield [POSITIVE, np.array([], np.int64)], {"noop_with_empty_axes": 1}
            yield [POSITIVE, None], {"noop_with_empty_axes": 1}

    return cases


def arg(version):
    tied = np.array([[1, 3, 3], [2, 2, 0]], dtype=np.float32)
    yield [X3], {"axis": -1}
    yield [tied], {"axis": 1, "keepdims": 0}
    if version >= 12:
        yield [tied], {"axis": 1, "select_last_index": 1}


def top_k(version):
    yield [X3, ints(2)], {}
    yield [X3, ints(1)], {"axis": 1} if version < 11 else {"axis": -2, "largest": 0}


def softmax(version):
    yield [X3], {}
    for axis in (0, 1, 2):
        yield [X4], {"axis": axis}
    if version >= 11:
        yield [X4], {"axis": -2}


def clip(version):
    if version < 11:
        yield [X3], {"min": -0.5, "max": 0.5}
        yield [X3], {}
    else:
        yield [X3, scalar(-0.5, np.float32), scalar(0.5, np.float32)], {}
        yield [X3, None, scalar(0.5, np.float32)], {}
        yield [X3], {}
        if version >= 12:
            yield [WHOLE, scalar(-3), None], {}


def power(version):
    yield [POSITIVE, scalar(2.0, np.float32)], {}
    yield [POSITIVE, rand(3, 1, seed=3)], {}
    if version >= 12:
        yield [POSITIVE, scalar(3)], {}
        yield [WHOLE, scalar(2.0, np.float32)], {}


def mod(version):
    yield [WHOLE, DIVISOR], {}
    yield [WHOLE, DIVISOR], {"fmod": 1}
    yield [X3, scalar(0.7, np.float32)], {"fmod": 1}


def cum_sum(version):
    for settings in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        yield [X3, scalar(-2)], settings


def reshape(version):
    yield [X3, ints(0, -1)], {}
    yield [X3, ints(4, 1, 6)], {}
    if version >= 14:
        yield [np.zeros((0, 3), np.float32), ints(3, 0)], {"allowzero": 1}


def flatten(version):
    for axis in (0, 1, 2, 3) + ((-1, -2) if version >= 11 else ()):
        yield [X3], {"axis": axis}
    yield [X4], {}


def concat(version):
    yield [X3, rand(2, 1, 4, seed=3)], {"axis": 1}
    if version >= 11:
        yield [X3, rand(2, 3, 2, seed=3)], {"axis": -1}


def slicing(version):
    if version < 10:
        yield [X4], {"starts": [0, 1], "ends": [2, -1], "axes": [0, 2]}
        yield [X4], {"starts": [1, -2], "ends": [100, 3]}
        return
    far = 2**63 - 1
    yield [X4, ints(0, 1), ints(2, -1), ints(0, 2)], {}
    yield [X4, ints(1, -2), ints(100, 3)], {}
    yield [X4, ints(-1), ints(-far), ints(3), ints(-2)], {}
    yield [X4, ints(3, 5), ints(0, 1), ints(2, 3), ints(-1, -2)], {}
    yield [X4, ints(0), ints(far), ints(3), ints(2)], {}
    yield [X4, ints(4), ints(2), ints(3)], {}
    if version >= 11:
        yield [X4, ints(1), ints(3), ints(-1), None], {}


def split(version):
    if version < 13:
        yield [X4], {"axis": 2, "split": [2, 3]}
    else:
        yield [X4, ints(1, 4)], {"axis": -2 if version >= 11 else 2}
    yield [X4], {"axis": 3, **({"num_outputs": 2} if version >= 18 else {})}
    if version >= 18:
        yield [X4], {"axis": 2, "num_outputs": 2}


def squeeze(version):
    x = rand(1, 3, 1, 2)
    yield [x], {}
    if version >= 13:
        yield [x, ints(-2)], {}
        yield [x, ints(0, 2)], {}
    else:
        yield [x], {"axes": [0, 2]}
    if 11 <= version < 13:
        yield [x], {"axes": [-2]}


def unsqueeze(version):
    axes = [(0, 3)] + ([(-1,), (-2, 0)] if version >= 11 else [])
    for one in axes:
        yield ([X3, ints(*one)], {}) if version >= 13 else ([X3], {"axes": list(one)})


def gather(version):
    yield [X4, ints(1, 0, 1)], {"axis": 2}
    yield [X4, scalar(1)], {"axis": 1}
    yield [X4, np.array([[0, 1], [2, 1]], np.int64)], {"axis": 3}
    yield [X4, np.array([1, 0], np.int32)], {}
    if version >= 11:
        yield [X4, ints(-1, 0)], {"axis": -2}
        yield [X4, scalar(-1)], {"axis": -1}


def gather_elements(version):
    yield [X3, np.array([[[0, -1, 1]]], np.int64)], {"axis": -1}


def gather_nd(version):
    yield [X3, np.array([[0, 1], [1, -1]], np.int64)], {}
    yield [X3, np.array([[[0, 1, 2]], [[1, 2, 3]]], np.int64)], {}
    if version >= 12:
        yield [X3, np.array([[1], [-1]], np.int64)], {"batch_dims": 1}


def scatter_nd(version):
    at = np.array([[0, 1], [1, -1]], np.int64)
    yield [X3, at, rand(2, 4, seed=3)], {}
    if version >= 16:
        again = np.array([[0, 1], [0, 1]], np.int64)
        yield [X3, again, rand(2, 4, seed=3)], {"reduction": "add"}


def scatter_elements(version):
    at = np.array([[[0, -1]], [[1, 2]]], np.int64)
    yield [X3, at, rand(2, 1, 2, seed=3)], {"axis": -1}
    if version >= 16:
        yield [X3, at * 0, rand(2, 1, 2, seed=3)], {"axis": 2, "reduction": "add"}


def expand(version):
    yield [rand(3, 1), ints(2, 1, 4)], {}
    yield [rand(2, 3), ints(1, 1)], {}


def pad(version):
    modes = ["reflect", "edge"] + (["wrap"] if version >= 19 else [])
    if version < 11:
        yield [X4], {"pads": [0, 0, 1, 2, 0, 1, 3, 0], "value": 1.5}
        for mode in modes:
            yield [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": mode}
        return
    pads = ints(0, 0, 1, 2, 0, 1, 3, 0)
    yield [X4, pads, scalar(1.5, np.float32)], {}
    yield [X4, pads], {}
    yield [X4, ints(0, 0, -1, 2, 0, 0, 0, -1), None], {}
    for mode in modes:
        yield [X4, ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": mode}
    if version >= 18:
        yield [X4, ints(1, 2, 0, 1), None, ints(-1, 2)], {}


def shape(version):
    yield [X4], {}
    if version >= 15:
        yield [X4], {"start": -2}
        yield [X4], {"start": 1, "end": -1}


def depth_to_space(version):
    yield [rand(2, 8, 2, 3)], {"blocksize": 2}
    if version >= 11:
        yield [rand(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}


def trilu(version):
    yield [X3], {}
    yield [X3, scalar(1)], {"upper": 0}
    yield [X3, scalar(-1)], {}


def upsample(version):
    scales = np.array([1, 1, 2, 3], np.float32)
    for mode in ("nearest", "linear"):
        if version < 9:
            yield [X4], {"scales": scales.tolist(), "mode": mode}
        else:
            yield [X4, scales], {"mode": mode}


def resize(version):
    if version < 11:
        yield from upsample(9)
        yield [X4, np.array([1, 1, 0.6, 1.5], np.float32)], {"mode": "linear"}
        yield [X4, np.array([1, 1, 0.6, 1.5], np.float32)], {}
        return
    none = np.array([], np.float32) if version < 13 else None
    scales = np.array([1, 1, 0.6, 2.5], np.float32)
    for place in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for mode in ("nearest", "linear", "cubic"):
            settings = {"mode": mode, "coordinate_transformation_mode": place}
            yield [X4, none, scales], settings
            yield [X4, none, none, ints(2, 3, 9, 4)], settings
    for rounding in ("round_prefer_ceil", "floor", "ceil"):
        yield [X4, none, scales], {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
    if version >= 18:
        yield [X4, none, none, ints(7, 4)], {"axes": [2, 3], "mode": "linear"}


def cast(version):
    x = np.array([[1.7, -1.7], [0.0, 250.2]], np.float32)
    for to in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE):
        yield [x], {"to": to}
    yield [BOOLS], {"to": TensorProto.FLOAT}


def constant(version):
    yield [], {"value": numpy_helper.from_array(X3)}
    if version >= 12:
        yield [], {"value_float": 2.5}
        yield [], {"value_ints": [1, 2]}
        yield [], {"value_int": 3}
        yield [], {"value_floats": [1.0, 2.0]}


def constant_of_shape(version):
    yield [ints(2, 3)], {}
    yield [ints(2)], {"value": numpy_helper.from_array(ints(7))}


def ranges(version):
    yield [scalar(2), scalar(11), scalar(3)], {}
    yield [scalar(5), scalar(-4), scalar(-2)], {}
    yield [scalar(0.5, np.float32), scalar(3.1, np.float32), scalar(0.7, np.float32)], {}


def one_hot(version):
    yield [ints(0, 2, -1), scalar(3), np.array([0.5, 2.0], np.float32)], {}
    yield [WHOLE % 3, scalar(3), np.array([0.0, 1.0], np.float32)], {"axis": 1}


def attention(version):
    yield [rand(2, 3, 5, 4), rand(2, 3, 6, 4, seed=1), rand(2, 3, 6, 4, seed=2)], {}
    yield [rand(2, 3, 5, 4), rand(2, 3, 5, 4, seed=1), rand(2, 3, 5, 4, seed=2)], {"is_causal": 1}
    flat = [rand(2, 5, 12), rand(2, 6, 12, seed=1), rand(2, 6, 12, seed=2)]
    yield flat, {"q_num_heads": 3, "kv_num_heads": 3, "scale": 0.3}
    yield [*flat, rand(5, 6, seed=5)], {"q_num_heads": 3, "kv_num_heads": 3}


CASES = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "Attention": attention,
    "Einsum": lambda v: [([X3, rand(2, 5, 4)], {"equation": "bij,bkj->bik"}), ([X3], {"equation": "...i->..."})],
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm,
    "RMSNormalization": lambda v: [([X4, rand(6)], {"epsilon": 1e-3}), ([X4, rand(5, 6)], {"axis": -2})],
    "InstanceNormalization": lambda v: [
        ([X4, rand(3), rand(3, seed=1)], {}), ([X4[..., :1, :1], rand(3), rand(3)], {})
    ],
    "GroupNormalization": lambda v: [
        ([rand(2, 6, 3, 3), *(rand(2 if v < 21 else 6, seed=s) for s in (1, 2))], {"num_groups": 2})
    ],
    "LpNormalization": lambda v: [([X3], {"axis": 1}), ([X3], {"p": 1}), ([X3 * 0], {})],
    "LRN": lambda v: [([X4], {"size": 3, "alpha": 0.1}), ([X4], {"size": 5, "alpha": 0.5, "bias": 2.0})],
    "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": lambda v: [([X4], {}), ([X3], {})],
    "GlobalMaxPool": lambda v: [([X4], {}), ([X3], {})],
    "ReduceSum": noop_reduction(13), "ReduceMean": noop_reduction(18),
    **{f"Reduce{kind}": reduction(18) for kind in ("Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")},
    "ArgMax": arg, "ArgMin": arg, "TopK": top_k,
    "LeakyRelu": lambda v: [([X3], {}), ([X3], {"alpha": 0.3})],
    "PRelu": lambda v: [([X3, rand(3, 1, seed=4)], {}), ([X3, rand(1, seed=4)], {})],
    "Elu": lambda v: [([X3], {"alpha": 0.7})], "Selu": lambda v: [([X3], {}), ([X3], {"alpha": 1.2, "gamma": 2.0})],
    "Celu": lambda v: [([X3], {"alpha": 0.7})], "Swish": lambda v: [([X3], {}), ([X3], {"alpha": 0.5})],
    "HardSigmoid": lambda v: [
        ([X3], {}), ([X3 * 3], {"alpha": 1 / 6, "beta": 0.5}), ([X3], {"alpha": 0.4, "beta": 0.3})
    ],
    "HardSwish": unary(X3 * 3), "Gelu": lambda v: [([X3], {}), ([X3], {"approximate": "tanh"})],
    "Clip": clip, "Softmax": softmax, "LogSoftmax": softmax,
    "Add": binary, "Sub": binary, "Mul": binary, "Div": binary, "Pow": power, "Mod": mod, "CumSum": cum_sum,
    "Min": variadic, "Max": variadic, "Sum": variadic, "Mean": variadic,
    "Sqrt": unary(POSITIVE), "Log": unary(POSITIVE), "Reciprocal": unary(POSITIVE),
    "Round": unary(np.array([[[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]]], np.float32)),
    "Reshape": reshape, "Flatten": flatten,
    "Transpose": lambda v: [([X4], {}), ([X4], {"perm": [0, 2, 3, 1]})],
    "Concat": concat, "Slice": slicing, "Split": split, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd,
    "ScatterND": scatter_nd, "ScatterElements": scatter_elements, "Expand": expand,
    "Tile": lambda v: [([X3, ints(2, 1, 3)], {})], "Pad": pad, "Shape": shape,
    "DepthToSpace": depth_to_space, "SpaceToDepth": lambda v: [([rand(2, 3, 4, 6)], {"blocksize": 2})],
    "Trilu": trilu, "Upsample": upsample, "Resize": resize,
    "Dropout": lambda v: [([X3], {} if v >= 12 else {"ratio": 0.3})], "Cast": cast,
    "CastLike": lambda v: [([X3, WHOLE], {})],
    "Constant": constant, "ConstantOfShape": constant_of_shape, "Range": ranges, "OneHot": one_hot,
    "Where": lambda v: [([BOOLS, X3, rand(3, 1, seed=5)], {})],
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), compared),
    "Equal": lambda v: [([WHOLE, ints(3)], {})] + ([([X3, X3[:1]], {})] if v >= 11 else []),
    "Not": lambda v: [([BOOLS], {})], **dict.fromkeys(("And", "Or", "Xor"), logic),
}  # fmt: skip


def schemas(operator):
    """All schema versions of one operator, oldest first."""
    return HISTORY[operator]


HISTORY = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        HISTORY.setdefault(_schema.name, []).append(_schema)
for _versions in HISTORY.values():
    _versions.sort(key=lambda schema: schema.since_version)


def versions_to_run():
    """(operator, opset): each schema version that the table covers, at the first opset onnxruntime runs."""
    for operator, table in OPERATORS.items():
        opsets = {max(schema.since_version, 7) for schema in schemas(operator)}
        for opset in sorted(opsets):
            removed = operator == "Upsample" and opset >= 10
            if min(table) <= opset <= NEWEST and not removed:
                yield pytest.param(operator, opset, id=f"{operator}-{opset}")


def run_both(operator, opset, arrays, attributes, outputs=1):
    """Outputs of onnxruntime, and of our function."""
    names = [f"i{i}" if one is not None else "" for i, one in enumerate(arrays)]
    made = [f"o{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, made, **attributes)
    shaping = SHAPE_INPUTS.get(operator, ())
    entries, stored = [], []
    for i, (name, one) in enumerate(zip(names, arrays, strict=True)):
        if one is None:
            continue
        if i in shaping:
            stored.append(numpy_helper.from_array(one, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(one.dtype)
            entries.append(helper.make_tensor_value_info(name, kind, one.shape))
    graph = helper.make_graph(
        [node], "one", entries, [onnx.ValueInfoProto(name=name) for name in made], stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = session.run(made, {value.name: arrays[names.index(value.name)] for value in entries})
    call = _resolve(node, names, opset)
    tensors = [None if one is None else torch.from_numpy(one.copy()) for one in arrays]
    result = call.function(*tensors, **call.attributes)
    got = result if isinstance(result, tuple) else (result,)
    return wanted, [one.numpy() for one in got]


@pytest.mark.parametrize(("operator", "opset"), list(versions_to_run()))
def test_agrees_with_onnxruntime(operator, opset):
    cases = CASES.get(operator, unary())
    count = 0
    for arrays, attributes in cases(opset):
        outputs = 2 if operator in ("Split", "TopK") else 1
        wanted, got = run_both(operator, opset, arrays, attributes, outputs)
        for one, other in zip(wanted, got, strict=True):
            assert one.shape == other.shape, (attributes, one.shape, other.shape)
            assert one.dtype == other.dtype, (attributes, one.dtype, other.dtype)
            np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5, err_msg=str(attributes))
        count += 1
    assert count


def test_batch_norm_in_training_mode_uses_the_batch():
    arrays = [X4, rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3, low=0.1)]
    wanted, got = run_both("BatchNormalization", 15, arrays, {"training_mode": 1}, outputs=3)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    frozen, _ = run_both("BatchNormalization", 15, arrays, {})
    assert np.abs(frozen[0] - got[0]).max() > 0.1


def test_batch_norm_differentiates_computed_statistics():
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    var = torch.tensor([1.3, 0.7], dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale, bias = torch.tensor([1.5, 0.5]).double(), torch.tensor([0.1, 0.2]).double()
    function = OPERATORS["BatchNormalization"][9]
    assert torch.autograd.gradcheck(lambda m, v: function(x, scale, bias, m, v), (mean, var))
    plain = function(x, scale, bias, mean.detach(), var.detach())
    torch.testing.assert_close(function(x, scale, bias, mean, var).detach(), plain)


def test_space_to_depth_undoes_depth_to_space():
    x = torch.from_numpy(rand(2, 8, 2, 3))
    for mode in ("DCR", "CRD"):
        wide = OPERATORS["DepthToSpace"][1](x, blocksize=2, mode=mode)
        torch.testing.assert_close(OPERATORS["SpaceToDepth"][1](wide, blocksize=2, mode=mode), x)


def test_softmax_below_13_flattens():
    old, new = lookup("Softmax", 12)[1], lookup("Softmax", 13)[1]
    x = torch.from_numpy(X3)
    assert not torch.allclose(old(x, axis=1), new(x, axis=1))
    torch.testing.assert_close(old(x, axis=1).sum((1, 2)), torch.ones(2))


# --- the table against the schemas -----------------------------------------------------------------------

#: Why the function of an older version still serves: reason → revisions whose signature or text moved.
READ = {
    "reworded, or examples added": """
        Conv-11 ConvTranspose-11 Gemm-13 BatchNormalization-15 LRN-13 MaxPool-11 MaxPool-12 AveragePool-11
        ReduceMean-13 ReduceMax-12 ReduceMax-13 ReduceMin-12 ReduceMin-13 ReduceProd-13 ReduceL1-13
        ReduceL2-13 ReduceSumSquare-13 ReduceLogSumExp-13 ArgMax-13 ArgMin-13 Abs-13 Mod-13 Transpose-21
        Transpose-25 Slice-13 Squeeze-23 Unsqueeze-23 Gather-13 GatherElements-13 GatherND-13 Pad-13
        DepthToSpace-13 Resize-19 Dropout-10 Dropout-22 Cast-9 Cast-13
    """,
    "negative axes or indices came in, which ours always took": """
        ReduceMean-11 ReduceSum-11 ReduceMax-11 ReduceMin-11 ReduceProd-11 ReduceL1-11 ReduceL2-11
        ReduceSumSquare-11 ReduceLogSumExp-11 ArgMax-11 ArgMin-11 Softmax-11 LogSoftmax-11 Flatten-11
        Concat-11 Slice-11 Split-11 Squeeze-11 Unsqueeze-11 Gather-11 OneHot-11
    """,
    "a new attribute or optional input, whose default is the old behaviour": """
        Gemm-11 Attention-24 Attention-25 MaxPool-8 MaxPool-10 AveragePool-10 AveragePool-19 ArgMax-12
        ArgMin-12 GatherND-12 Pad-18 DepthToSpace-11 SpaceToDepth-28 Resize-13 Resize-18 Cast-19 Cast-24
        CastLike-19 CastLike-24 Constant-11 Constant-12 Range-27
    """,
    "new values of an attribute: taken, or refused by KNOWN_VALUES": "ScatterND-18 ScatterElements-18 Pad-19",
    "more element types": "Add-14 Sub-14 Mul-14 Div-14 ReduceMax-20 ReduceMin-20 Mod-28",
    "states what onnxruntime always did": "MaxPool-22 AveragePool-22 Clip-13 Ceil-13 Floor-13",
}
SAME_MEANING = {
    (entry.rpartition("-")[0], int(entry.rpartition("-")[2])): reason
    for reason, entries in READ.items()
    for entry in entries.split()
}


def covered(operator):
    """(first version, function, schemas it serves)."""
    table = OPERATORS[operator]
    for first, function in table.items():
        later = min((key for key in table if key > first), default=math.inf)
        yield first, function, [one for one in schemas(operator) if first <= one.since_version < later]


def test_every_key_is_a_version():
    for operator, table in OPERATORS.items():
        versions = {schema.since_version for schema in schemas(operator)}
        assert set(table) <= versions, operator


def attributes_of(schema):
    found = {}
    for name, attribute in schema.attributes.items():
        if name == "consumed_inputs":
            continue
        value = inspect.Parameter.empty
        if attribute.default_value.name:
            value = helper.get_attribute_value(attribute.default_value)
            value = value.decode() if isinstance(value, bytes) else value
        elif not attribute.required:
            value = None
        found[name] = value
    return found


@pytest.mark.parametrize("operator", OPERATORS)
def test_attributes_and_defaults_are_those_of_the_schemas(operator):
    for first, function, served in covered(operator):
        names, _ = _keywords(function)
        parameters = inspect.signature(function).parameters if names else {}
        known = set()
        for schema in served:
            for name, default in attributes_of(schema).items():
                known.add(name)
                assert name in names, f"{operator}-{schema.since_version} has the attribute {name}"
                ours = parameters[name].default
                if default is inspect.Parameter.empty and ours is None:
                    assert any(attributes_of(one).get(name, default) is None for one in served)
                elif isinstance(default, float):
                    assert ours == pytest.approx(default, rel=1e-6), (operator, schema.since_version, name)
                else:
                    assert ours == default, (operator, schema.since_version, name)
        assert names <= known, f"{operator}-{first} knows attributes that no schema has: {names - known}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_functions_take_the_inputs_of_the_schemas(operator):
    for _, function, served in covered(operator):
        if (function.__module__ or "torch").startswith("torch"):
            continue
        positional = [
            one
            for one in inspect.signature(function).parameters.values()
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.VAR_POSITIONAL)
        ]
        for schema in served:
            kinds = [entry.option for entry in schema.inputs]
            if onnx.defs.OpSchema.FormalParameterOption.Variadic in kinds:
                assert positional[0].kind is inspect.Parameter.VAR_POSITIONAL
                continue
            assert len(positional) >= len(kinds), (operator, schema.since_version)
            for ours, kind in zip(positional, kinds, strict=False):
                if kind == onnx.defs.OpSchema.FormalParameterOption.Optional:
                    assert ours.default is None, (operator, schema.since_version, ours.name)


def signature_of(schema):
    entries = tuple((entry.name, entry.option, entry.is_homogeneous) for entry in schema.inputs)
    return entries, len(schema.outputs), attributes_of(schema)


def text_of(schema):
    parts = [schema.doc, *(entry.description for entry in schema.inputs)]
    parts += [schema.attributes[name].description for name in sorted(schema.attributes)]
    return re.sub(r"\s+", " ", " ".join(parts)).strip()


def moved():
    """(operator, version): revisions within one function's range that are not type-only."""
    for operator in OPERATORS:
        for _, _, served in covered(operator):
            for before, after in pairwise(served):
                if signature_of(before) != signature_of(after) or text_of(before) != text_of(after):
                    yield operator, after.since_version


def test_every_revision_is_type_only_or_read():
    found = set(moved())
    unread = sorted(found - set(SAME_MEANING))
    assert not unread, f"read what changed in {unread}, then list them in SAME_MEANING with the reason"
    assert not set(SAME_MEANING) - found, "SAME_MEANING lists revisions that are type-only"
