"""What each ONNX operator computes, in torch.

Tensors are positional (``None`` when the node leaves them out), attributes keyword-only under the names and
defaults of the schema. The table at the end maps an operator to ``{first version: function}``: a function
serves every version up to the next key, because only there the meaning moved. Source: the operator schemas
of onnx; where schema and onnxruntime leave room, onnxruntime decides, since it is what serves these files.

Half-precision types are computed in float32 here, and rounded in :mod:`formats.onnx.precision`. Shapes, axes, pads and
the like arrive on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from formats.dtypes import DTYPES
from formats.errors import Unsupported
from formats.onnx.resize import resize_10, resize_11, upsample_7, upsample_9
from formats.tensors import TORCH

Operator = Callable[..., Any]
Ints = Sequence[int]

#: TensorProto.DataType → dtype of the computation.
COMPUTED: Mapping[int, torch.dtype] = {
    DTYPES[name].onnx: torch.float32 if dtype.itemsize == 2 and dtype.is_floating_point else dtype
    for name, dtype in TORCH.items()
    if not name.startswith("F8")
}

#: Elements that an operator may create out of a shape alone; more is a mistake or an attack.
MAX_ELEMENTS = 2**28


def _list(values: Tensor) -> list[int]:
    return [int(value) for value in values.reshape(-1).tolist()]


def _axes(axes: Tensor | Ints | None, rank: int) -> list[int] | None:
    if axes is None:
        return None
    values = _list(axes) if isinstance(axes, Tensor) else axes
    return [int(axis) % max(rank, 1) for axis in values]


def _bounded(count: int) -> None:
    if count > MAX_ELEMENTS:
        raise Unsupported(f"The ONNX graph asks for a tensor of {count} elements out of nothing.")


# --- linear maps -------------------------------------------------------------------------------------------

_CONV: Mapping[int, Operator] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: Mapping[int, Operator] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOL: Mapping[int, Operator] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: Mapping[int, Operator] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(
    size: Ints, kernel: Ints, strides: Ints | None, dilations: Ints | None, pads: Ints | None, auto_pad: str
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, begin and end pads of every spatial axis."""
    n = len(size)
    stride = list(strides) if strides else [1] * n
    dilation = list(dilations) if dilations else [1] * n
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for i in range(n):
            reach = dilation[i] * (kernel[i] - 1) + 1
            total = max((-(-size[i] // stride[i]) - 1) * stride[i] + reach - size[i], 0)
            less, more = total // 2, total - total // 2
            begin.append(less if auto_pad == "SAME_UPPER" else more)
            end.append(more if auto_pad == "SAME_UPPER" else less)
    elif auto_pad == "VALID" or not pads:
        begin, end = [0] * n, [0] * n
    else:
        begin, end = list(pads[:n]), list(pads[n:])
    return stride, dilation, begin, end


def _pad_space(x: Tensor, begin: Ints, end: Ints, value: float) -> Tensor:
    both = [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]
    return F.pad(x, both, value=value) if any(both) else x


def conv(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = x.dim() - 2
    stride, dilation, begin, end = _window(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    padding = begin
    if begin != end or min(begin, default=0) < 0:
        x, padding = _pad_space(x, begin, end, 0.0), [0] * n
    result: Tensor = _CONV[n](x, w, b, stride, padding, dilation, group)
    return result


def conv_transpose(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, output_padding: Ints | None = None,
    output_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = x.dim() - 2
    kernel = w.shape[2:]
    stride = list(strides) if strides else [1] * n
    dilation = list(dilations) if dilations else [1] * n
    extra = list(output_padding) if output_padding else [0] * n
    full: Tensor = _CONV_TRANSPOSE[n](x, w, None, stride, 0, 0, group, dilation)
    begin, end = [], []
    for i in range(n):
        whole = stride[i] * (x.shape[2 + i] - 1) + dilation[i] * (kernel[i] - 1) + 1 + extra[i]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            wanted = list(output_shape)[-n:][i] if output_shape else x.shape[2 + i] * stride[i]
            if output_shape and wanted > whole:
                raise Unsupported("An ONNX ConvTranspose node makes more than its layer covers.")
            total = max(whole - wanted, 0)
            less, more = total // 2, total - total // 2
            begin.append(less if auto_pad == "SAME_UPPER" else more)
            end.append(more if auto_pad == "SAME_UPPER" else less)
        else:
            begin.append(pads[i] if pads and auto_pad == "NOTSET" else 0)
            end.append(pads[n + i] if pads and auto_pad == "NOTSET" else 0)
    full = _pad_space(full, [-side for side in begin], [extra[i] - end[i] for i in range(n)], 0.0)
    return full if b is None else full + b.reshape(1, -1, *[1] * n)


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:  # fmt: skip
    a = a.t() if transA else a
    b = b.t() if transB else b
    if c is None:
        return a @ b if alpha == 1.0 else alpha * (a @ b)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


def einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *inputs)


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, past_key: Tensor | None = None,
    past_value: Tensor | None = None, nonpad_kv_seqlen: Tensor | None = None, *, is_causal: int = 0,
    kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0, right_window_size: int = -1, scale: float | None = None,
    softcap: float = 0.0, softmax_precision: int | None = None,
) -> Tensor:  # fmt: skip
    """Scaled dot-product attention without key-value cache, on [N,heads,L,E] or [N,L,heads*E]."""
    unusual = past_key is not None or past_value is not None or nonpad_kv_seqlen is not None or softcap
    if unusual or left_window_size >= 0 or right_window_size >= 0:
        raise Unsupported("The ONNX operator Attention is opened without cache, window and soft cap only.")
    flat = q.dim() == 3
    if flat:
        q = q.reshape(q.shape[0], q.shape[1], q_num_heads or 1, -1).transpose(1, 2)
        k = k.reshape(k.shape[0], k.shape[1], kv_num_heads or 1, -1).transpose(1, 2)
        v = v.reshape(v.shape[0], v.shape[1], kv_num_heads or 1, -1).transpose(1, 2)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask, is_causal=bool(is_causal), scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y.transpose(1, 2).flatten(2) if flat else y


# --- normalisation -----------------------------------------------------------------------------------------


def batch_normalization(
    x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> Tensor:  # fmt: skip
    if mean.requires_grad or var.requires_grad:  # statistics that the graph computes from weights
        shape = [1, -1] + [1] * (x.dim() - 2)
        factor = scale * torch.rsqrt(var + epsilon)
        return x * factor.reshape(shape) + (b - mean * factor).reshape(shape)
    return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)


def batch_normalization_14(
    x: Tensor, scale: Tensor, b: Tensor, mean: Tensor | None, var: Tensor | None, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0,
) -> Tensor:  # fmt: skip
    if training_mode or mean is None or var is None:
        return F.batch_norm(x, None, None, scale, b, True, 0.0, epsilon)
    return batch_normalization(x, scale, b, mean, var, epsilon=epsilon)


def layer_normalization(
    x: Tensor, scale: Tensor, b: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:  # fmt: skip
    shape = x.shape[axis:]
    if scale.shape == shape and (b is None or b.shape == shape):
        return F.layer_norm(x, shape, scale, b, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * scale
    return y if b is None else y + b


def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    dims = list(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + epsilon) * scale


def instance_normalization(x: Tensor, scale: Tensor, b: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return torch.instance_norm(x, scale, b, None, None, True, 0.0, epsilon, False)


def group_normalization_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int
) -> Tensor:
    """Scale and bias belong to groups; from version 21 on, to channels."""
    each = x.shape[1] // num_groups
    scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def group_normalization_21(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def lrn(x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Tensor:
    before = (size - 1) // 2
    squares = x.square().flatten(2)
    padded = F.pad(squares, (0, 0, before, size - 1 - before))
    total = padded.unfold(1, size, 1).sum(-1).reshape(x.shape)
    return x / (bias + alpha / size * total) ** beta


# --- pooling -----------------------------------------------------------------------------------------------


def _pooled(size: int, begin: int, end: int, reach: int, stride: int, ceil_mode: int) -> int:
    """Output size; with ``ceil_mode`` the last window still begins inside the image or its left pad."""
    room = size + begin + end - reach
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + begin:
        count -= 1
    return count


def _plain(auto_pad: str, ceil_mode: int, dilations: Ints | None) -> None:
    """Refuses pools of which runtimes make different sizes."""
    if auto_pad.startswith("SAME") and (ceil_mode or max(dilations or [1]) > 1):
        raise Unsupported("An ONNX pool pads by itself and spreads or rounds up its windows.")


def max_pool(
    x: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    kernel_shape: Ints, pads: Ints | None = None, storage_order: int = 0, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = x.dim() - 2
    _plain(auto_pad, ceil_mode, dilations)
    stride, dilation, begin, end = _window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    fits = begin == end and all(2 * side <= kernel_shape[i] for i, side in enumerate(begin))
    if not fits or ceil_mode:
        for i in range(n):
            reach, size = dilation[i] * (kernel_shape[i] - 1) + 1, x.shape[2 + i]
            count = _pooled(size, begin[i], end[i], reach, stride[i], ceil_mode)
            end[i] = (count - 1) * stride[i] + reach - size - begin[i]
        x, begin = _pad_space(x, begin, end, -math.inf), [0] * n
    result: Tensor = _MAX_POOL[n](x, list(kernel_shape), stride, begin, dilation)
    return result


def average_pool(
    x: Tensor, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, kernel_shape: Ints, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = x.dim() - 2
    kernel = list(kernel_shape)
    _plain(auto_pad, ceil_mode, dilations)
    stride, dilation, begin, end = _window(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    fits = begin == end and all(2 * side <= kernel[i] for i, side in enumerate(begin))
    if fits and not ceil_mode and max(dilation) == 1:
        result: Tensor = _AVG_POOL[n](x, kernel, stride, begin, False, bool(count_include_pad))
        return result
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if count_include_pad:
        counted = _pad_space(counted, begin, end, 1.0)
    more = list(end)
    for i in range(n):
        reach, size = dilation[i] * (kernel[i] - 1) + 1, x.shape[2 + i]
        count = _pooled(size, begin[i], end[i], reach, stride[i], ceil_mode)
        more[i] = (count - 1) * stride[i] + reach - size - begin[i]
    window = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
    planes = _pad_space(x.reshape(-1, 1, *x.shape[2:]), begin, more, 0.0)
    if count_include_pad:
        counted = _pad_space(counted, [0] * n, [more[i] - end[i] for i in range(n)], 0.0)
    else:
        counted = _pad_space(counted, begin, more, 0.0)
    total = _CONV[n](planes, window, None, stride, 0, dilation)
    share = _CONV[n](counted, window, None, stride, 0, dilation)
    pooled: Tensor = total / share
    return pooled.reshape(*x.shape[:2], *pooled.shape[2:])


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


# --- reductions --------------------------------------------------------------------------------------------


def _by_attribute(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduced(data: Tensor, *, axes: Ints | None = None, keepdims: int = 1) -> Tensor:
        dims = _axes(axes, data.dim()) or list(range(data.dim()))
        return function(data, dims, bool(keepdims))

    return reduced


def _by_input(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduced(
        data: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        dims = _axes(axes, data.dim())
        if not dims and noop_with_empty_axes:
            if function not in (_max, _min, _mean, _sum, _prod):  # runtimes differ in what one value comes to
                raise Unsupported("An ONNX reduction over no axis takes a norm or logarithm.")
            return data
        return function(data, dims or list(range(data.dim())), bool(keepdims))

    return reduced


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.mean(dims, keepdim=keep)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype)


def _max(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.amax(dims, keepdim=keep)


def _min(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.amin(dims, keepdim=keep)


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.abs().sum(dims, keepdim=keep, dtype=x.dtype)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdim=keep)
    return norm


def _sum_square(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.square().sum(dims, keepdim=keep, dtype=x.dtype)


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.logsumexp(dims, keepdim=keep)


def arg_max(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return data.shape[axis] - 1 - data.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return data.argmax(axis, keepdim=bool(keepdims))


def arg_min(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return data.shape[axis] - 1 - data.flip(axis).argmin(axis, keepdim=bool(keepdims))
    return data.argmin(axis, keepdim=bool(keepdims))


def top_k_10(x: Tensor, k: Tensor, *, axis: int = -1) -> tuple[Tensor, Tensor]:
    return top_k(x, k, axis=axis)


def top_k(
    x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Of equals the first comes first."""
    if not sorted and int(k) > 1:
        raise Unsupported("The ONNX graph asks for the greatest values in any order, which runtimes choose.")
    values, indices = torch.sort(x, stable=True, dim=axis, descending=bool(largest))
    return values.narrow(axis, 0, int(k)), indices.narrow(axis, 0, int(k))


# --- activations -------------------------------------------------------------------------------------------


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-7:
        return F.hardsigmoid(x)
    return (alpha * x + beta).clamp(0.0, 1.0)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


class _Clamp(torch.autograd.Function):
    """``clamp`` with a backward pass of one kernel in place of five; the gradients are the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        # That backward pass leaves the bounds out; the numbers next to them leave out no more than ``clamp`` does.
        bounds = torch.tensor([low, high], dtype=x.dtype).float()
        ctx.outside = torch.nextafter(bounds, torch.tensor([-math.inf, math.inf])).tolist()
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.outside), None, None


def _clamp(x: Tensor, low: Any, high: Any) -> Tensor:
    if low is None or high is None or not x.requires_grad or x.dtype == torch.float64:
        return x.clamp(low, high)
    found: Tensor = _Clamp.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


def clip_6(x: Tensor, *, max: float = 3.4028234663852886e38, min: float = -3.4028234663852886e38) -> Tensor:
    return _clamp(x, min, max)


def clip_11(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is None and high is None:
        return x
    return _clamp(x, None if low is None else low.item(), None if high is None else high.item())


def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Below version 13 the axes from ``axis`` on are one."""
    return x.flatten(axis % x.dim()).softmax(-1).reshape(x.shape)


def softmax_13(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.flatten(axis % x.dim()).log_softmax(-1).reshape(x.shape)


def log_softmax_13(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.log_softmax(axis)


# --- arithmetic --------------------------------------------------------------------------------------------


def div(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(x: Tensor, y: Tensor) -> Tensor:
    exponent = y.item() if y.numel() == 1 and y.device.type == "cpu" and y.dim() <= x.dim() else y
    result: Tensor = torch.pow(x, exponent)
    return result.to(x.dtype)


def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def cum_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = int(axis) % x.dim()
    x = x.flip(dim) if reverse else x
    y = x.cumsum(dim, dtype=x.dtype)
    if exclusive:
        zero = torch.zeros_like(y.narrow(dim, 0, 1))
        y = torch.cat([zero, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
    return y.flip(dim) if reverse else y


def minimum(*data: Tensor) -> Tensor:
    return reduce(torch.minimum, data)


def maximum(*data: Tensor) -> Tensor:
    return reduce(torch.maximum, data)


def total(*data: Tensor) -> Tensor:
    return reduce(torch.add, data)


def mean(*data: Tensor) -> Tensor:
    return reduce(torch.add, data) / len(data)


# --- shapes ------------------------------------------------------------------------------------------------


def reshape(data: Tensor, shape: Tensor) -> Tensor:
    return reshape_14(data, shape)


def reshape_14(data: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = _list(shape)
    if not allowzero:
        sizes = [data.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return data.reshape(sizes)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(data: Tensor, *, perm: Ints | None = None) -> Tensor:
    return data.permute(list(perm) if perm is not None else list(range(data.dim()))[::-1])


def concat(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


def _sliced(data: Tensor, starts: Ints, ends: Ints, axes: Ints | None, steps: Ints | None) -> Tensor:
    where = list(axes) if axes is not None else list(range(len(starts)))
    for i, axis in enumerate(where):
        step = steps[i] if steps is not None else 1
        taken = _taken(starts[i], ends[i], step, data.shape[axis])
        if step == 1:
            data = data.narrow(axis, taken.start, len(taken))
        else:
            data = data.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=data.device))
    return data


#: Ends that mean the end of the axis, whichever way a slice goes.
_WHOLE = (2**31 - 1, 2**63 - 1)


def _taken(start: int, end: int, step: int, size: int) -> range:
    """The places of an axis that onnxruntime takes. Unlike Python it begins at element 0 where a negative step starts
    before it."""
    low, high = (-1, size - 1) if step < 0 else (0, size)
    start = min(max(start + size * (start < 0), 0), high)
    if end in _WHOLE:
        return range(start, low if step < 0 else size, step)
    return range(start, min(max(end + size * (end < 0), low), size), step)


def slice_1(data: Tensor, *, axes: Ints | None = None, ends: Ints, starts: Ints) -> Tensor:
    return _sliced(data, starts, ends, axes, None)


def slice_10(
    data: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    where = _list(axes) if axes is not None else None
    return _sliced(data, _list(starts), _list(ends), where, _list(steps) if steps is not None else None)


def split_2(x: Tensor, *, axis: int = 0, split: Ints | None = None, outputs: int) -> tuple[Tensor, ...]:
    sizes = list(split) if split is not None else [x.shape[axis] // outputs] * outputs
    return torch.split(x, sizes, axis)


def split_13(x: Tensor, split: Tensor | None = None, *, axis: int = 0, outputs: int) -> tuple[Tensor, ...]:
    return split_2(x, axis=axis, split=_list(split) if split is not None else None, outputs=outputs)


def split_18(
    x: Tensor, split: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Without ``split`` all chunks but the last are of equal size."""
    if split is not None:
        return torch.split(x, _list(split), axis)
    return torch.split(x, -(-x.shape[axis] // outputs), axis)


def _ascending(axes: Ints | None) -> None:
    """Raises where axes are negative or not in order, of which runtimes make several things in old versions."""
    if axes is not None and (min(axes, default=0) < 0 or list(axes) != sorted({*axes})):
        raise Unsupported(f"The ONNX graph names axes {[*axes]} in a version that takes none below 0.")


def squeeze_1(data: Tensor, *, axes: Ints | None = None) -> Tensor:
    _ascending(axes)
    return squeeze_11(data, axes=axes)


def squeeze_11(data: Tensor, *, axes: Ints | None = None) -> Tensor:
    dims = _axes(axes, data.dim())
    if dims == []:  # onnxruntime takes none for all, and its optimiser for none
        raise Unsupported(
            "The ONNX graph squeezes an empty list of axes, which one runtime reads in two ways."
        )
    return data.squeeze() if dims is None else data.squeeze(dims)


def squeeze_13(data: Tensor, axes: Tensor | None = None) -> Tensor:
    return squeeze_11(data, axes=None if axes is None else _list(axes))


def unsqueeze_1(data: Tensor, *, axes: Ints) -> Tensor:
    _ascending(axes)
    return unsqueeze_11(data, axes=axes)


def unsqueeze_11(data: Tensor, *, axes: Ints) -> Tensor:
    for axis in sorted(_axes(axes, data.dim() + len(axes)) or ()):
        data = data.unsqueeze(axis)
    return data


def unsqueeze_13(data: Tensor, axes: Tensor) -> Tensor:
    return unsqueeze_11(data, axes=_list(axes))


def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % data.dim()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return data.select(axis, int(indices))
    result: Tensor = data[(slice(None),) * axis + (indices.long(),)]
    return result


def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    indices = indices.long()
    return data.gather(axis, torch.where(indices < 0, indices + data.shape[axis], indices))


def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    shape = data.shape[:batch_dims]
    rows = [
        torch.arange(size, device=data.device).reshape([-1] + [1] * (indices.dim() - 2 - i))
        for i, size in enumerate(shape)
    ]
    result: Tensor = data[(*rows, *indices.long().unbind(-1))]
    return result


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    return data.index_put(indices.long().unbind(-1), updates)


def scatter_nd_16(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    return data.index_put(indices.long().unbind(-1), updates, accumulate=reduction == "add")


def scatter_elements(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    return scatter_elements_16(data, indices, updates, axis=axis)


def scatter_elements_16(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    indices = indices.long()
    indices = torch.where(indices < 0, indices + data.shape[axis], indices)
    if reduction == "add":
        return data.scatter_add(axis, indices, updates)
    return data.scatter(axis, indices, updates)


def expand(x: Tensor, shape: Tensor) -> Tensor:
    sizes: tuple[int, ...] = np.broadcast_shapes(tuple(x.shape), tuple(_list(shape)))
    if x.numel() <= 1:
        _bounded(math.prod(sizes))
    return x.expand(sizes)


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(_list(repeats))


def _padded(x: Tensor, pads: Ints, mode: str, value: float, axes: Ints | None) -> Tensor:
    where = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    begin, end = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(where):
        begin[axis], end[axis] = pads[i], pads[len(where) + i]
    if mode == "constant":
        return _pad_space(x, begin, end, value)
    if min(pads, default=0) < 0:  # runtimes differ in what they take then
        raise Unsupported(f"An ONNX Pad node of mode {mode!r} takes less than nothing.")
    for axis in where:
        size = x.shape[axis]
        at = torch.arange(-begin[axis], size + end[axis], device=x.device)
        if mode == "edge":
            at = at.clamp(0, size - 1)
        elif mode == "wrap":
            at = at % size
        elif size > 1:
            at = (at % (2 * size - 2) - (size - 1)).abs().neg() + (size - 1)
        x = x.index_select(axis, at)
    return x


def pad_2(data: Tensor, *, mode: str = "constant", pads: Ints, value: float = 0.0) -> Tensor:
    return _padded(data, pads, mode, value, None)


def pad_11(
    data: Tensor, pads: Tensor, constant_value: Tensor | None = None, axes: Tensor | None = None, *,
    mode: str = "constant",
) -> Tensor:  # fmt: skip
    value = constant_value.item() if constant_value is not None else 0.0
    return _padded(data, _list(pads), mode, value, _list(axes) if axes is not None else None)


def shape_1(data: Tensor) -> Tensor:
    return torch.tensor(data.shape, dtype=torch.int64)


def shape_15(data: Tensor, *, end: int | None = None, start: int = 0) -> Tensor:
    return torch.tensor(data.shape[start:end], dtype=torch.int64)


def size_1(data: Tensor) -> Tensor:
    return torch.tensor(data.numel(), dtype=torch.int64)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    s, d = blocksize, c // blocksize**2
    if mode == "CRD":
        y = x.reshape(n, d, s, s, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, s, s, d, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, d, h * s, w * s)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    s = blocksize
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    y = x.reshape(n, c, h // s, s, w // s, s).permute(order)
    return y.reshape(n, c * s * s, h // s, w // s)


def trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = int(k) if k is not None else 0
    return x.triu(diagonal) if upper else x.tril(diagonal)


# --- constants, types, logic -------------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x


def dropout(data: Tensor, *, ratio: float = 0.5) -> Tensor:
    return data


def dropout_12(
    data: Tensor, ratio: Tensor | None = None, training_mode: Tensor | None = None, *, seed: int | None = None
) -> Tensor:
    if training_mode is not None and bool(training_mode):
        raise Unsupported("The ONNX file was exported in training mode: a Dropout node is switched on.")
    return data


def cast(x: Tensor, *, round_mode: str = "up", saturate: int = 1, to: int) -> Tensor:
    return x.to(COMPUTED[to])


def cast_like(x: Tensor, target: Tensor, *, round_mode: str = "up", saturate: int = 1) -> Tensor:
    return x.to(target.dtype)


def constant(
    *, sparse_value: Any = None, value: Tensor | None = None, value_float: float | None = None,
    value_floats: Sequence[float] | None = None, value_int: int | None = None, value_ints: Ints | None = None,
    value_string: str | None = None, value_strings: Sequence[str] | None = None,
) -> Tensor:  # fmt: skip
    if value is not None:
        return value
    for whole in (value_int, value_ints):
        if whole is not None:
            return torch.tensor(whole, dtype=torch.int64)
    real = value_float if value_float is not None else value_floats
    if real is None:
        raise Unsupported("The ONNX graph holds a Constant of text or of sparse values.")
    return torch.tensor(real, dtype=torch.float32)


def constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    sizes = _list(shape)
    _bounded(math.prod(sizes))
    if value is None:
        return torch.zeros(sizes)
    return torch.full(sizes, value.item(), dtype=value.dtype)


def range_11(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    first, step = start.item(), delta.item()
    count = max(math.ceil((limit.item() - first) / step), 0)
    _bounded(count)
    return (torch.arange(count, dtype=start.dtype) * step + first).to(start.dtype)


def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count, rank = int(depth), indices.dim() + 1
    indices = indices.long()
    indices = torch.where(indices < 0, indices + count, indices).unsqueeze(axis)
    shape = [1] * rank
    shape[axis] = count
    hit = indices == torch.arange(count, device=indices.device).reshape(shape)
    return torch.where(hit, values[1], values[0])


#: Operator → {first version: function}; a function serves all versions up to the next key.
OPERATORS: Mapping[str, Mapping[int, Operator]] = {
    # linear maps
    "Conv": {1: conv},
    "ConvTranspose": {1: conv_transpose},
    "Gemm": {7: gemm},
    "MatMul": {1: torch.matmul},
    "Einsum": {12: einsum},
    "Attention": {23: attention},
    # normalisation
    "BatchNormalization": {9: batch_normalization, 14: batch_normalization_14},
    "LayerNormalization": {17: layer_normalization},
    "RMSNormalization": {23: rms_normalization},
    "InstanceNormalization": {6: instance_normalization},
    "GroupNormalization": {18: group_normalization_18, 21: group_normalization_21},
    "LpNormalization": {1: lp_normalization},
    "LRN": {1: lrn},
    # pooling
    "MaxPool": {1: max_pool},
    "AveragePool": {7: average_pool},
    "GlobalAveragePool": {1: global_average_pool},
    "GlobalMaxPool": {1: global_max_pool},
    # reductions: the axes moved from an attribute to an input
    "ReduceMean": {1: _by_attribute(_mean), 18: _by_input(_mean)},
    "ReduceSum": {1: _by_attribute(_sum), 13: _by_input(_sum)},
    "ReduceMax": {1: _by_attribute(_max), 18: _by_input(_max)},
    "ReduceMin": {1: _by_attribute(_min), 18: _by_input(_min)},
    "ReduceProd": {1: _by_attribute(_prod), 18: _by_input(_prod)},
    "ReduceL1": {1: _by_attribute(_l1), 18: _by_input(_l1)},
    "ReduceL2": {1: _by_attribute(_l2), 18: _by_input(_l2)},
    "ReduceSumSquare": {1: _by_attribute(_sum_square), 18: _by_input(_sum_square)},
    "ReduceLogSumExp": {1: _by_attribute(_log_sum_exp), 18: _by_input(_log_sum_exp)},
    "ArgMax": {1: arg_max},
    "ArgMin": {1: arg_min},
    "TopK": {10: top_k_10, 11: top_k},
    # activations
    "Relu": {6: torch.relu},
    "LeakyRelu": {6: leaky_relu},
    "PRelu": {7: prelu},
    "Elu": {6: elu},
    "Selu": {6: selu},
    "Celu": {12: celu},
    "Sigmoid": {6: torch.sigmoid},
    "HardSigmoid": {6: hard_sigmoid},
    "HardSwish": {14: F.hardswish},
    "Swish": {24: swish},
    "Softplus": {1: F.softplus},
    "Softsign": {1: F.softsign},
    "Mish": {18: F.mish},
    "Tanh": {6: torch.tanh},
    "Erf": {9: torch.erf},
    "Gelu": {20: gelu},
    "Clip": {6: clip_6, 11: clip_11},
    "Softmax": {1: softmax_1, 13: softmax_13},
    "LogSoftmax": {1: log_softmax_1, 13: log_softmax_13},
    # arithmetic
    "Add": {7: torch.add},
    "Sub": {7: torch.sub},
    "Mul": {7: torch.mul},
    "Div": {7: div},
    "Pow": {7: power},
    "Mod": {10: mod},
    "Sqrt": {6: torch.sqrt},
    "Exp": {6: torch.exp},
    "Log": {6: torch.log},
    "Sin": {7: torch.sin},
    "Cos": {7: torch.cos},
    "Ceil": {6: torch.ceil},
    "Floor": {6: torch.floor},
    "Round": {11: torch.round},
    "Sign": {9: torch.sign},
    "Abs": {6: torch.abs},
    "Neg": {6: torch.neg},
    "Reciprocal": {6: torch.reciprocal},
    "CumSum": {11: cum_sum},
    "Min": {8: minimum},
    "Max": {8: maximum},
    "Sum": {8: total},
    "Mean": {8: mean},
    # shapes
    "Reshape": {5: reshape, 14: reshape_14},
    "Flatten": {1: flatten},
    "Transpose": {1: transpose},
    "Concat": {4: concat},
    "Slice": {1: slice_1, 10: slice_10},
    "Split": {2: split_2, 13: split_13, 18: split_18},
    "Squeeze": {1: squeeze_1, 11: squeeze_11, 13: squeeze_13},
    "Unsqueeze": {1: unsqueeze_1, 11: unsqueeze_11, 13: unsqueeze_13},
    "Gather": {1: gather},
    "GatherElements": {11: gather_elements},
    "GatherND": {11: gather_nd},
    "ScatterND": {11: scatter_nd, 16: scatter_nd_16},
    "ScatterElements": {11: scatter_elements, 16: scatter_elements_16},
    "Expand": {8: expand},
    "Tile": {6: tile},
    "Pad": {2: pad_2, 11: pad_11},
    "Shape": {1: shape_1, 15: shape_15},
    "Size": {1: size_1},
    "DepthToSpace": {1: depth_to_space},
    "SpaceToDepth": {1: space_to_depth},
    "Trilu": {14: trilu},
    "Upsample": {7: upsample_7, 9: upsample_9},
    "Resize": {10: resize_10, 11: resize_11},
    # constants, types, logic
    "Identity": {1: identity},
    "Dropout": {7: dropout, 12: dropout_12},
    "Cast": {6: cast},
    "CastLike": {15: cast_like},
    "Constant": {1: constant},
    "ConstantOfShape": {9: constant_of_shape},
    "Range": {11: range_11},
    "OneHot": {9: one_hot},
    "Where": {9: torch.where},
    "Equal": {7: torch.eq},
    "Greater": {7: torch.gt},
    "GreaterOrEqual": {12: torch.ge},
    "Less": {7: torch.lt},
    "LessOrEqual": {12: torch.le},
    "Not": {1: torch.logical_not},
    "And": {7: torch.logical_and},
    "Or": {7: torch.logical_or},
    "Xor": {7: torch.logical_xor},
}

#: Attribute values that the functions above know; a node with another value counts as unknown.
KNOWN_VALUES: Mapping[tuple[str, str], frozenset[Any]] = {
    ("Resize", "coordinate_transformation_mode"): frozenset(
        {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"}
    ),
    ("Resize", "antialias"): frozenset({0}),
    ("Resize", "exclude_outside"): frozenset({0}),
    ("Resize", "keep_aspect_ratio_policy"): frozenset({"stretch"}),
    ("ScatterND", "reduction"): frozenset({"none", "add"}),
    ("ScatterElements", "reduction"): frozenset({"none", "add"}),
    ("Cast", "to"): frozenset(COMPUTED),
}

#: Operator → positions of inputs that describe shapes, axes or bounds: they stay on the CPU.
SHAPE_INPUTS: Mapping[str, frozenset[int]] = {
    "Clip": frozenset({1, 2}),
    "ConstantOfShape": frozenset({0}),
    "CumSum": frozenset({1}),
    "Dropout": frozenset({1, 2}),
    "Expand": frozenset({1}),
    "OneHot": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    "Upsample": frozenset({1}),
} | {
    f"Reduce{kind}": frozenset({1})
    for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")
}  # fmt: skip

#: Operator → positions of inputs that are no weights: never trained.
UNTRAINED_INPUTS: Mapping[str, frozenset[int]] = {
    **SHAPE_INPUTS,
    "BatchNormalization": frozenset({3, 4}),
    "Pow": frozenset({1}),
}


def lookup(operator: str, opset: int) -> tuple[int, Operator] | None:
    """Greatest first version not above ``opset`` and its function; ``None`` when there is none."""
    versions = OPERATORS.get(operator, {})
    first = max((version for version in versions if version <= opset), default=None)
    return None if first is None else (first, versions[first])
