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

from formats.errors import Unsupported
from formats.onnx.graph import _resolve
from formats.onnx.operators import (
    OPERATORS,
    SHAPE_INPUTS,
    clip_11,
    lookup,
    pad_11,
    squeeze_1,
    squeeze_11,
    squeeze_13,
    top_k,
    unsqueeze_1,
)
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


def c(*arrays, **attributes):
    """One case: inputs (None: left out) and attributes."""
    return list(arrays), attributes


def f32(*values):
    return np.array(values, np.float32)


X3, X4, X5 = rand(2, 3, 4), rand(2, 3, 5, 6, seed=1), rand(2, 2, 4, 5, 3, seed=2)
POSITIVE, COLUMN, HALF, FAR = (
    rand(2, 3, 4, low=0.1, high=3.0),
    rand(3, 1, seed=3),
    scalar(0.5, np.float32),
    2**63 - 1,
)
WHOLE, DIVISOR = np.array([[7, -7, 5], [-5, 3, -1]]), np.array([[2, 2, -3], [3, -2, 2]])
BOOLS = rand(2, 3, 4, seed=9) > 0
TIED, CASTED = f32([1, 3, 3], [2, 2, 0]), f32([1.7, -1.7], [0.0, 250.2])
W, T, ONE = rand(4, 3, 3, 2, seed=3), rand(3, 2, 3, 2, seed=3), rand(1, 3, 1, 2)
RESIZED = f32(1, 1, 0.6, 1.5)
NORM = [rand(3), rand(3, seed=1), rand(3, seed=2), rand(3, seed=3, low=0.1)]
NORM2 = [rand(2), rand(2, seed=1), rand(2, seed=2), rand(2, seed=3, low=0.1)]
A, B = rand(2, 3), rand(3, 4, seed=1)
QUERY, FLAT = rand(2, 3, 5, 4), [rand(2, 5, 12), rand(2, 6, 12, seed=1), rand(2, 6, 12, seed=2)]
AT, AT_ELEMENTS = np.array([[0, 1], [1, -1]]), np.array([[[0, -1]], [[1, 2]]])
SQUARE = {"kernel_shape": [3, 3], "strides": [2, 2]}
EVEN = {"kernel_shape": [2, 2], "strides": [2, 2]}
ROUND = {"pads": [1, 1, 1, 1]}


def unary(x=X3):
    return lambda v: [c(x), c(x[0, 0])]


def reduction(by_input, noop=False):
    return lambda v: [c(POSITIVE)] + (
        [c(POSITIVE, axes=[-1]), c(POSITIVE, axes=[0, 2], keepdims=0)] if v < by_input else
        [c(POSITIVE, ints(-1)), c(POSITIVE, ints(0, 2), keepdims=0), c(POSITIVE, None, keepdims=0)]
        + [c(POSITIVE, ints(), noop_with_empty_axes=1), c(POSITIVE, None, noop_with_empty_axes=1)] * noop
    )  # fmt: skip


def pad(v):
    modes = ["reflect", "edge", *["wrap"] * (v >= 19)]
    if v < 11:
        return [c(X4, pads=[0, 0, 1, 2, 0, 1, 3, 0], value=1.5),
                *[c(X4, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode=mode) for mode in modes]]  # fmt: skip
    pads = ints(0, 0, 1, 2, 0, 1, 3, 0)
    return [
        c(X4, pads, scalar(1.5, np.float32)), c(X4, pads), c(X4, ints(0, 0, -1, 2, 0, 0, 0, -1), None),
        *[c(X4, ints(0, 0, 1, 2, 0, 0, 3, 0), mode=mode) for mode in modes],
        *[c(X4, ints(1, 2, 0, 1), None, ints(-1, 2))] * (v >= 18),
    ]  # fmt: skip


def upsample(v):
    by = f32(1, 1, 2, 3)
    return [c(X4, scales=by.tolist(), mode=m) if v < 9 else c(X4, by, mode=m) for m in ("nearest", "linear")]


def resize(v):
    if v < 11:
        return [*upsample(9), c(X4, RESIZED, mode="linear"), c(X4, RESIZED)]
    none, scales = np.array([], np.float32) if v < 13 else None, f32(1, 1, 0.6, 2.5)
    return [
        c(X4, none, *wanted, mode=mode, coordinate_transformation_mode=place)
        for place in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for mode in ("nearest", "linear", "cubic")
        for wanted in ([scales], [none, ints(2, 3, 9, 4)])
    ] + [
        c(X4, none, scales, nearest_mode=rounding, coordinate_transformation_mode="asymmetric")
        for rounding in ("round_prefer_ceil", "floor", "ceil")
    ] + [
        c(rand(1, 1, 64, 64), none, f32(1, 1, *by), nearest_mode=rounding, coordinate_transformation_mode=place)
        for by, rounding, place in (
            ((1.3, 2.3), "floor", "asymmetric"), ((1.7, 2.3), "round_prefer_floor", "half_pixel")
        )
    ] + [c(X4, none, none, ints(7, 4), axes=[2, 3], mode="linear")] * (v >= 18)  # fmt: skip


#: Operator → opset → cases; an operator that is not named takes X3 alone.
CASES = {
    "Conv": lambda v: [
        c(X4, W, rand(4, seed=4), kernel_shape=[3, 2], pads=[1, 1, 1, 1], strides=[2, 1]), c(X4, W, pads=[0, 1, 2, 0]),
        c(X4, W, auto_pad="SAME_UPPER", strides=[2, 2]), c(X4, W, auto_pad="SAME_LOWER", strides=[2, 2]),
        c(X4, W, auto_pad="VALID", dilations=[2, 1]), c(X4, rand(6, 1, 3, 3, seed=5), group=3, **ROUND),
        c(X3, rand(2, 3, 3, seed=6), pads=[2, 0]), c(X5, rand(2, 2, 2, 2, 2, seed=7), strides=[1, 2, 1]),
    ],
    "ConvTranspose": lambda v: [
        c(X4, T, rand(2, seed=4), strides=[2, 3], pads=[1, 0, 1, 0], output_padding=[1, 1]),
        c(X4, T, pads=[1, 0, 0, 1], strides=[2, 2]), c(X4, T, strides=[2, 2], output_shape=[10, 12]),
        c(X4, rand(3, 1, 3, 3, seed=5), group=3, dilations=[2, 1]),
        *[c(X4, T, strides=[2, 2], auto_pad="SAME_UPPER")] * (v >= 11),
    ],
    "Gemm": lambda v: [
        c(A, B, rand(4, seed=2)), c(A, B, rand(2, 1, seed=4)), c(A, B, scalar(0.3, np.float32), beta=0.5),
        c(A.T.copy(), B.T.copy(), rand(4, seed=2), transA=1, transB=1, alpha=0.5, beta=2.0),
        *[c(A, B, alpha=2.0), c(A, B, None)] * (v >= 11),
    ],
    "MatMul": lambda v: [c(A, B), c(rand(2, 1, 2, 3), rand(3, 3, 4)), c(rand(3), rand(2, 3, 4))],
    "Attention": lambda v: [
        c(QUERY, rand(2, 3, 6, 4, seed=1), rand(2, 3, 6, 4, seed=2)),
        c(QUERY, rand(2, 3, 5, 4, seed=1), rand(2, 3, 5, 4, seed=2), is_causal=1),
        c(*FLAT, q_num_heads=3, kv_num_heads=3, scale=0.3), c(*FLAT, rand(5, 6, seed=5), q_num_heads=3, kv_num_heads=3),
    ],
    "Einsum": lambda v: [c(X3, rand(2, 5, 4), equation="bij,bkj->bik"), c(X3, equation="...i->...")],
    "BatchNormalization": lambda v: [c(X4, *NORM, epsilon=1e-3), c(X3[:, :, 0], *NORM), c(X5, *NORM2)],
    "LayerNormalization": lambda v: [
        c(X4, rand(6), rand(6, seed=1), epsilon=1e-3), c(X4, rand(5, 6), axis=-2),
        c(X4, rand(3, 5, 6), rand(3, 5, 6, seed=1), axis=1),
    ],
    "RMSNormalization": lambda v: [c(X4, rand(6), epsilon=1e-3), c(X4, rand(5, 6), axis=-2)],
    "InstanceNormalization": lambda v: [c(X4, *NORM[:2]), c(X4[..., :1, :1], rand(3), rand(3))],
    "GroupNormalization": lambda v: [
        c(rand(2, 6, 3, 3), *(rand(2 if v < 21 else 6, seed=s) for s in (1, 2)), num_groups=2)
    ],
    "LpNormalization": lambda v: [c(X3, axis=1), c(X3, p=1), c(X3 * 0)],
    "LRN": lambda v: [c(X4, size=3, alpha=0.1), c(X4, size=5, alpha=0.5, bias=2.0)],
    "MaxPool": lambda v: [
        c(X4, **SQUARE, **ROUND), c(X4 - 5, kernel_shape=[2, 3], pads=[0, 1, 1, 0]),
        c(X4 - 5, **SQUARE, auto_pad="SAME_UPPER"), c(X4 - 5, **EVEN, auto_pad="SAME_LOWER"),
        c(X3, kernel_shape=[2]), c(X5, kernel_shape=[2, 2, 2]),
        *[c(X4 - 5, kernel_shape=[2, 3], strides=[2, 4], ceil_mode=1), c(X4, kernel_shape=[2, 2], dilations=[2, 3]),
          c(X4 - 5, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, pads=[1, 0, 1, 0])] * (v >= 10),
    ],
    "AveragePool": lambda v: [
        c(X4, **SQUARE, **ROUND), c(X4, kernel_shape=[2, 3], pads=[0, 1, 1, 0]),
        c(X4, **SQUARE, auto_pad="SAME_UPPER"), c(X4, kernel_shape=[3, 3], **ROUND, count_include_pad=1),
        c(X4, kernel_shape=[2, 3], pads=[0, 1, 1, 0], count_include_pad=1), c(X3, kernel_shape=[2]),
        *[c(X4, **EVEN, ceil_mode=1), c(X4, **SQUARE, **ROUND, ceil_mode=1)] * (v >= 10),
        *[c(X4, **SQUARE, **ROUND, ceil_mode=1, count_include_pad=1),
          c(X4, kernel_shape=[2, 2], dilations=[2, 3], **ROUND)] * (v >= 19),
    ],
    "GlobalAveragePool": lambda v: [c(X4), c(X3)], "GlobalMaxPool": lambda v: [c(X4), c(X3)],
    "ReduceSum": reduction(13, noop=True), "ReduceMean": reduction(18, noop=True),
    **{f"Reduce{kind}": reduction(18) for kind in ("Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")},
    **dict.fromkeys(("ArgMax", "ArgMin"), lambda v: [
        c(X3, axis=-1), c(TIED, axis=1, keepdims=0), *[c(TIED, axis=1, select_last_index=1)] * (v >= 12),
    ]),
    "TopK": lambda v: [c(X3, ints(2)), c(X3, ints(1), **({"axis": 1} if v < 11 else {"axis": -2, "largest": 0}))],
    "LeakyRelu": lambda v: [c(X3), c(X3, alpha=0.3)],
    "PRelu": lambda v: [c(X3, rand(3, 1, seed=4)), c(X3, rand(1, seed=4))],
    "Elu": lambda v: [c(X3, alpha=0.7)], "Selu": lambda v: [c(X3), c(X3, alpha=1.2, gamma=2.0)],
    "Celu": lambda v: [c(X3, alpha=0.7)], "Swish": lambda v: [c(X3), c(X3, alpha=0.5)],
    "HardSigmoid": lambda v: [c(X3), c(X3 * 3, alpha=1 / 6, beta=0.5), c(X3, alpha=0.4, beta=0.3)],
    "HardSwish": unary(X3 * 3), "Gelu": lambda v: [c(X3), c(X3, approximate="tanh")],
    "Clip": lambda v: [c(X3)] + (
        [c(X3, min=-0.5, max=0.5)] if v < 11 else
        [c(X3, scalar(-0.5, np.float32), HALF), c(X3, None, HALF), *[c(WHOLE, scalar(-3), None)] * (v >= 12)]
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax"), lambda v: [
        c(X3), *[c(X4, axis=axis) for axis in (0, 1, 2, *[-2] * (v >= 11))]
    ]),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), lambda v: [
        c(X3, COLUMN), c(X3, scalar(1.5, np.float32)), *[c(WHOLE, DIVISOR)] * (v >= 7)
    ]),
    "Pow": lambda v: [
        c(POSITIVE, scalar(2.0, np.float32)), c(POSITIVE, COLUMN),
        *[c(POSITIVE, scalar(3)), c(WHOLE, scalar(2.0, np.float32))] * (v >= 12),
    ],
    "Mod": lambda v: [c(WHOLE, DIVISOR), c(WHOLE, DIVISOR, fmod=1), c(X3, scalar(0.7, np.float32), fmod=1)],
    "CumSum": lambda v: [
        c(X3, scalar(-2), **settings)
        for settings in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1})
    ],
    **dict.fromkeys(("Min", "Max", "Sum", "Mean"), lambda v: [c(X3), c(X3, COLUMN, rand(1, 4, seed=4))]),
    "Sqrt": unary(POSITIVE), "Log": unary(POSITIVE), "Reciprocal": unary(POSITIVE),
    "Round": unary(f32([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]])),
    "Reshape": lambda v: [
        c(X3, ints(0, -1)), c(X3, ints(4, 1, 6)), *[c(X3[:0, :, 0], ints(3, 0), allowzero=1)] * (v >= 14)
    ],
    "Flatten": lambda v: [c(X4), *[c(X3, axis=axis) for axis in (0, 1, 2, 3, *[-1, -2] * (v >= 11))]],
    "Transpose": lambda v: [c(X4), c(X4, perm=[0, 2, 3, 1])],
    "Concat": lambda v: [c(X3, rand(2, 1, 4, seed=3), axis=1), *[c(X3, rand(2, 3, 2, seed=3), axis=-1)] * (v >= 11)],
    "Slice": lambda v: [
        c(X4, starts=[0, 1], ends=[2, -1], axes=[0, 2]), c(X4, starts=[1, -2], ends=[100, 3])
    ] if v < 10 else [
        c(X4, ints(0, 1), ints(2, -1), ints(0, 2)), c(X4, ints(1, -2), ints(100, 3)), c(X4, ints(4), ints(2), ints(3)),
        c(X4, ints(-1), ints(-FAR), ints(3), ints(-2)), c(X4, ints(3, 5), ints(0, 1), ints(2, 3), ints(-1, -2)),
        c(X4, ints(0), ints(FAR), ints(3), ints(2)), *[c(X4, ints(1), ints(3), ints(-1), None)] * (v >= 11),
    ],
    "Split": lambda v: [
        c(X4, axis=2, split=[2, 3]) if v < 13 else c(X4, ints(1, 4), axis=-2),
        *([c(X4, axis=3)] if v < 18 else [c(X4, axis=3, num_outputs=2), c(X4, axis=2, num_outputs=2)]),
    ],
    "Squeeze": lambda v: [c(ONE)] + (
        [c(ONE, ints(-2)), c(ONE, ints(0, 2))] if v >= 13 else [c(ONE, axes=[0, 2]), *[c(ONE, axes=[-2])] * (v >= 11)]
    ),
    "Unsqueeze": lambda v: [
        c(X3, ints(*axes)) if v >= 13 else c(X3, axes=list(axes)) for axes in [(0, 3), *[(-1,), (-2, 0)] * (v >= 11)]
    ],
    "Gather": lambda v: [
        c(X4, ints(1, 0, 1), axis=2), c(X4, scalar(1), axis=1), c(X4, ints([0, 1], [2, 1]), axis=3),
        c(X4, np.array([1, 0], np.int32)), *[c(X4, ints(-1, 0), axis=-2), c(X4, scalar(-1), axis=-1)] * (v >= 11),
    ],
    "GatherElements": lambda v: [c(X3, ints([[0, -1, 1]]), axis=-1)],
    "GatherND": lambda v: [
        c(X3, AT), c(X3, ints([[0, 1, 2]], [[1, 2, 3]])), *[c(X3, ints([1], [-1]), batch_dims=1)] * (v >= 12)
    ],
    "ScatterND": lambda v: [
        c(X3, AT, rand(2, 4, seed=3)), *[c(X3, ints([0, 1], [0, 1]), rand(2, 4, seed=3), reduction="add")] * (v >= 16)
    ],
    "ScatterElements": lambda v: [
        c(X3, AT_ELEMENTS, rand(2, 1, 2, seed=3), axis=-1),
        *[c(X3, AT_ELEMENTS * 0, rand(2, 1, 2, seed=3), axis=2, reduction="add")] * (v >= 16),
    ],
    "Expand": lambda v: [c(rand(3, 1), ints(2, 1, 4)), c(rand(2, 3), ints(1, 1))],
    "Tile": lambda v: [c(X3, ints(2, 1, 3))], "Pad": pad, "Upsample": upsample, "Resize": resize,
    "Shape": lambda v: [c(X4), *[c(X4, start=-2), c(X4, start=1, end=-1)] * (v >= 15)],
    "DepthToSpace": lambda v: [
        c(rand(2, 8, 2, 3), blocksize=2), *[c(rand(2, 8, 2, 3), blocksize=2, mode="CRD")] * (v >= 11)
    ],
    "SpaceToDepth": lambda v: [c(rand(2, 3, 4, 6), blocksize=2)],
    "Trilu": lambda v: [c(X3), c(X3, scalar(1), upper=0), c(X3, scalar(-1))],
    "Dropout": lambda v: [c(X3, **({} if v >= 12 else {"ratio": 0.3}))], "CastLike": lambda v: [c(X3, WHOLE)],
    "Cast": lambda v: [c(BOOLS, to=TensorProto.FLOAT), *[
        c(CASTED, to=to) for to in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE)
    ]],
    "Constant": lambda v: [c(value=numpy_helper.from_array(X3))] + [
        c(value_float=2.5), c(value_ints=[1, 2]), c(value_int=3), c(value_floats=[1.0, 2.0])
    ] * (v >= 12),
    "ConstantOfShape": lambda v: [c(ints(2, 3)), c(ints(2), value=numpy_helper.from_array(ints(7)))],
    "Range": lambda v: [
        c(scalar(2), scalar(11), scalar(3)), c(scalar(5), scalar(-4), scalar(-2)),
        c(*(scalar(value, np.float32) for value in (0.5, 3.1, 0.7))),
    ],
    "OneHot": lambda v: [c(ints(0, 2, -1), scalar(3), f32(0.5, 2.0)), c(WHOLE % 3, scalar(3), f32(0.0, 1.0), axis=1)],
    "Where": lambda v: [c(BOOLS, X3, rand(3, 1, seed=5))],
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), lambda v: [
        c(X3, COLUMN), *[c(WHOLE, ints(3))] * (v >= 11)
    ]),
    "Equal": lambda v: [c(WHOLE, ints(3)), *[c(X3, X3[:1])] * (v >= 11)],
    "Not": lambda v: [c(BOOLS)], **dict.fromkeys(("And", "Or", "Xor"), lambda v: [c(BOOLS, BOOLS[:1])]),
}  # fmt: skip


#: Operator → all its schema versions, oldest first.
HISTORY = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        HISTORY.setdefault(_schema.name, []).append(_schema)
for _versions in HISTORY.values():
    _versions.sort(key=lambda schema: schema.since_version)


def versions_to_run():
    """(operator, opset): each schema version that the table covers, at the first opset onnxruntime runs."""
    for operator, table in OPERATORS.items():
        opsets = {max(schema.since_version, 7) for schema in HISTORY[operator]}
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
    cases = CASES.get(operator, unary())(opset)
    assert cases
    for arrays, attributes in cases:
        outputs = 2 if operator in ("Split", "TopK") else 1
        wanted, got = run_both(operator, opset, arrays, attributes, outputs)
        for one, other in zip(wanted, got, strict=True):
            assert one.shape == other.shape, (attributes, one.shape, other.shape)
            assert one.dtype == other.dtype, (attributes, one.dtype, other.dtype)
            np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5, err_msg=str(attributes))


def test_batch_norm_in_training_mode_uses_the_batch():
    arrays = [X4, *NORM]
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
        Concat-11 Slice-11 Split-11 Gather-11 OneHot-11
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
        yield first, function, [one for one in HISTORY[operator] if first <= one.since_version < later]


def test_every_key_is_a_version():
    for operator, table in OPERATORS.items():
        versions = {schema.since_version for schema in HISTORY[operator]}
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-0.5, 1e-7), (0.0, None), (0.0, 1e37)])
def test_a_clip_has_the_gradients_of_clamp(dtype, low, high):
    at_bounds = [
        0.0,
        -0.0,
        6.0,
        -0.5,
        1e-7,
        *np.nextafter(np.float32([0, 0, 6, 6]), np.float32([-1, 1, 0, 9])),
    ]
    x = torch.tensor([*at_bounds, -2.0, 2.0, 1e38], dtype=dtype)
    ours, theirs = (x.clone().requires_grad_(True) for _ in range(2))
    bounds = [None if bound is None else torch.tensor(bound) for bound in (low, high)]
    # a bound goes through float32, as it stands in a file
    low, high = (None if bound is None else bound.item() for bound in bounds)
    clipped, clamped = clip_11(ours, *bounds), theirs.clamp(low, high)
    assert torch.equal(clipped, clamped)
    weights = torch.arange(1, len(x) + 1, dtype=dtype)
    for found, leaf in ((clipped, ours), (clamped, theirs)):
        (slope,) = torch.autograd.grad((found * weights).sum(), leaf, create_graph=True)
        leaf.slope = slope
    assert torch.equal(ours.slope, theirs.slope)


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


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_a_pad_of_less_than_nothing_is_refused_where_runtimes_differ(mode):
    pads = torch.tensor([0, 0, 3, 0, 0, 0, -3, 0])
    with pytest.raises(Unsupported, match=f"mode '{mode}' takes less than nothing"):
        pad_11(torch.rand(1, 1, 8, 8), pads, mode=mode)


def test_settings_of_which_runtimes_make_different_values_are_refused():
    x, w = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 3, 3)
    same = {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3], "strides": [2, 2]}
    for pool in ("MaxPool", "AveragePool"):
        run = lookup(pool, 19)[1]
        assert run(x, **same).shape[2:] == (4, 4)
        for odd in ({"ceil_mode": 1}, {"dilations": [2, 2]}):
            with pytest.raises(Unsupported, match="pads by itself"):
                run(x, **same, **odd)
    with pytest.raises(Unsupported, match="more than its layer covers"):
        lookup("ConvTranspose", 17)[1](x, w, strides=[2, 2], output_shape=[17, 18])
    for name in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
        with pytest.raises(Unsupported, match="over no axis"):
            lookup(name, 18)[1](x, noop_with_empty_axes=1)
    assert lookup("ReduceMean", 18)[1](x, noop_with_empty_axes=1) is x


def test_pixels_that_lie_nearly_between_two_are_refused():
    x, by = torch.rand(1, 1, 64, 64), torch.tensor([1, 1, 1.3, 1.3])
    with pytest.raises(Unsupported, match="so nearly between two"):
        lookup("Resize", 13)[1](x, None, by, mode="nearest")
    for exact in (1.5, 2.0, 3.0):
        lookup("Resize", 13)[1](x, None, torch.tensor([1, 1, exact, exact]), mode="nearest")


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("step", [-3, -1, 1, 2])
def test_slices_begin_and_end_where_onnxruntime_has_them(size, step):
    """Also where they start before the first element, which Python takes for nothing."""
    places = (-(2**63), -(2**31), -100, -5, -1, 0, 1, 4, 5, 100, 2**31 - 1, 2**63 - 1)
    data = torch.arange(float(size))
    for start in places:
        for end in places:
            arrays = [data.numpy(), ints(start), ints(end), ints(0), ints(step)]
            ours, theirs = run_both("Slice", 13, arrays, {})
            assert ours[0].tolist() == theirs[0].tolist(), (start, end)


def test_of_equals_the_first_is_taken():
    x = np.array([[1, 0, 0, 1, 1]], np.float32)
    for k in (1, 2, 4):
        (_, ours), (_, theirs) = run_both("TopK", 11, [x, ints(k)], {}, outputs=2)
        assert ours.tolist() == theirs.tolist()


def test_axes_of_which_runtimes_make_different_things_are_refused():
    x = torch.ones(1, 2, 1, 1)
    with pytest.raises(Unsupported, match="empty list of axes"):
        squeeze_13(x, torch.tensor([], dtype=torch.int64))
    for axes in ([-1], [3, 2], [2, 2]):
        with pytest.raises(Unsupported, match="takes none below 0"):
            squeeze_1(x, axes=axes)
        with pytest.raises(Unsupported, match="takes none below 0"):
            unsqueeze_1(x, axes=axes)
    assert squeeze_11(x, axes=[-1]).shape == (1, 2, 1)
    with pytest.raises(Unsupported, match="in any order"):
        top_k(x, torch.tensor([2]), axis=1, sorted=0)
