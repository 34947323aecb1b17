"""Values that are not known to be numbers for every image (G12): roots, logarithms and quotients of what may leave
their domain. No torch.

A sign is proved from the operators alone, for values of any size: squares, norms and rectified values are not negative,
and such a value plus a positive constant is positive. What overflows by sums and products alone is not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

from formats.dataflow import Node
from wiper_cli.graph.flow import Flow


class Sign(IntEnum):
    """What is known of all numbers of a value."""

    ANY = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


ANY, NOT_NEGATIVE, POSITIVE = Sign
#: Constants below this keep nothing away from zero: a runtime may round to zero what another computes as 1e-26.
TINY = 1e-13
#: Not negative whatever they are given; exponentials and their like may be rounded to zero.
_NEVER_NEGATIVE = frozenset(
    (
        "relu", "relu6", "abs", "square", "exp", "exp2", "sigmoid", "hardsigmoid", "softmax", "_softmax", "softplus",
        "sqrt", "rsqrt", "cosh", "norm", "linalg_vector_norm", "var", "std", "reducel1", "reducel2", "reducesumsquare",
        "globallppool", "lppool", "cdist",
    )
)  # fmt: skip
#: Means, sums and greatest values, which are of the sign of what they are made of.
_ALIKE = frozenset(
    (
        "mean", "sum", "reducemean", "reducesum", "globalaveragepool", "globalmaxpool", "cumsum", "reducemax",
        "reducemin", "amax", "amin", "max", "min", "topk", "identity", "maxpool", "max_pool2d", "max_pool1d", "clone",
    )
)  # fmt: skip
#: As these, but for zeros that are put around.
_PADDED = frozenset(("averagepool", "avg_pool1d", "avg_pool2d", "avg_pool3d"))
#: Products of what is not negative are not, whatever the attributes.
_PRODUCTS = frozenset(
    ("mul", "div", "true_divide", "matmul", "bmm", "mm", "einsum", "conv", "conv1d", "conv2d", "conv3d")
)
#: The second operand tells the shape or the dtype.
AS_ANOTHER = frozenset(("expand_as", "view_as", "reshape_as", "type_as", "castlike"))
#: To a narrower dtype small numbers are rounded to zero.
_CASTS = frozenset(("cast", "castlike", "to", "type_as"))
#: Give whole numbers another meaning.
_CODES = frozenset(("quantizelinear", "dequantizelinear", "dynamicquantizelinear", "bitcast"))
_ADDED = frozenset(("add", "sum", "mean"))
#: Take only some numbers, by no sign.
_NARROW = frozenset(("asin", "acos", "acosh", "atanh", "logit", "tan", "sinh", "cosh", "nan_to_num"))
#: Overflow but for what is never positive.
_EXPONENTIALS = frozenset(("exp", "exp2", "expm1"))


def name(node: Node) -> str:
    """The operator, alike for both formats."""
    return node.operator.rpartition("::")[2].lower().rstrip("_")


def doubtful(flow: Flow) -> Iterator[tuple[int, int]]:
    """Nodes from pixels that may make no number of a finite one, and the input that may leave the domain."""
    signs = _signs(flow)
    for n in flow.live:
        data, what = flow[n].inputs, name(flow[n])
        if what.endswith("tohalf") and not _is_image(flow, data[0]) and data[0] in flow.parents:
            yield n, data[0]  # beyond 65504 is infinite, and steps are wide
            continue
        at, asked = _domain(flow, what, data)
        if at >= len(data) or data[at] not in flow.parents:
            continue
        if what in _EXPONENTIALS and _never_positive(flow, signs, data[at]):
            continue
        if asked is None or signs[data[at]] < asked:
            yield n, data[at]


def _is_image(flow: Flow, n: int) -> bool:
    """Whether a value is the image itself, whose pixels have bounds."""
    while flow[n].role == "view" and flow[n].data:
        n = flow[n].data[0]
    return flow[n].role == "input"


def _domain(flow: Flow, what: str, data: Sequence[int]) -> tuple[int, Sign | None]:
    """Which input may not be any number, and what it has to be; ``None`` for what no sign tells."""
    if what in ("sqrt", "log1p"):
        return 0, NOT_NEGATIVE
    if what in ("log", "log2", "log10", "rsqrt", "reciprocal"):
        return 0, POSITIVE
    if what in ("div", "true_divide", "addcdiv"):
        return 2 if what == "addcdiv" else 1, POSITIVE
    if what == "pow" and len(data) > 1:
        return (1, None) if data[1] in flow.parents else (0, _base(flow[data[1]]))
    return (0, None) if what in _NARROW or what in _EXPONENTIALS else (0, ANY)


def _base(exponent: Node) -> Sign:
    """What the base of a power has to be."""
    if exponent.values is None or not exponent.values.size:
        return POSITIVE
    if bool((exponent.values < 0).any()):
        return POSITIVE
    whole = bool((exponent.values == np.round(exponent.values)).all())
    return ANY if whole else NOT_NEGATIVE


def _never_positive(flow: Flow, signs: list[Sign], n: int) -> bool:
    """Whether a value is the opposite of one that is not negative, or what its greatest is subtracted from."""
    node, data = flow[n], flow[n].data
    return signs[data[0]] >= NOT_NEGATIVE if name(node) == "neg" else less_its_greatest(flow, n)


def less_its_greatest(flow: Flow, n: int) -> bool:
    """Whether a value is what its greatest is subtracted from."""
    node, data = flow[n], flow[n].data
    return (
        name(node) == "sub"
        and all(flow[one].values == 1 for one in flow[n].inputs[2:])  # the factor of what is subtracted
        and name(flow[data[1]]) in ("reducemax", "amax", "max")
        and data[0] in flow[data[1]].data
    )


def _signs(flow: Flow) -> list[Sign]:
    """Of every node; what a loop carries back is not known."""
    signs: list[Sign] = []
    for n, node in enumerate(flow.dataflow.nodes):
        # Whole numbers among the operands stand behind the others.
        every = [signs[one] if one < n else ANY for one in node.inputs]
        signs.append(_sign(flow, node, every[: len(node.data)], every))
    return signs


def _sign(flow: Flow, node: Node, held: list[Sign], every: list[Sign]) -> Sign:
    what = name(node)
    if node.role == "stored":
        return _of_numbers(node)
    if not held:
        return ANY
    if what in ("pad", "constant_pad_nd"):
        return min(*held, NOT_NEGATIVE)
    if what in _CODES:
        return ANY
    if what in ("clip", "clamp", "clamp_min"):
        return _clipped(flow, node, held)
    if what in ("min", "max", "minimum", "maximum") and node.role == "step":
        return max(held) if what.startswith("max") else min(held)
    if what == "sqrt":
        return POSITIVE if held[0] == POSITIVE else NOT_NEGATIVE
    if what == "pow" and len(every) > 1:
        exponent = flow[node.inputs[1]].values
        even = exponent is not None and bool((exponent % 2 == 0).all())
        return NOT_NEGATIVE if even or every[0] >= NOT_NEGATIVE else ANY
    if what == "mul" and len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]:
        return NOT_NEGATIVE
    if what in _PRODUCTS:
        return min(*every, NOT_NEGATIVE)
    if node.role == "add" and what in _ADDED:
        return _added(every, flow[node.inputs[2]] if what == "add" and len(every) > 2 else None)
    if what in _NEVER_NEGATIVE:
        return NOT_NEGATIVE
    if what in _PADDED or what.startswith(("adaptive_avg", "upsample_nearest", "upsample_bilinear")):
        return min(held[0], NOT_NEGATIVE)
    if what in _ALIKE or what.startswith("adaptive_max"):
        return held[0]
    if what in AS_ANOTHER:
        held = held[:1]
    if what in _CASTS or what.endswith("tohalf"):
        return min(*held, NOT_NEGATIVE)
    return min(held) if node.role in ("view", "pick", "concat", "choose") else ANY


def _of_numbers(node: Node) -> Sign:
    values = node.values
    if values is None or not values.size or not bool((values >= 0).all()):
        return ANY
    return POSITIVE if bool((values >= TINY).all()) else NOT_NEGATIVE


def _clipped(flow: Flow, node: Node, held: list[Sign]) -> Sign:
    """Of greatest of a value and its lower bound, no more than its upper one."""
    low = held[1] if len(held) > 1 else ANY
    high = flow[node.data[2]].values if len(held) > 2 else None
    sign = max(held[0], low)
    return sign if high is None else min(sign, _of_numbers(flow[node.data[2]]))


def _added(held: list[Sign], factor: Node | None) -> Sign:
    """Of a sum; ``factor``: of the second one."""
    if factor is not None and _of_numbers(factor) != POSITIVE:
        return ANY
    if factor is not None:
        held = held[:2]
    return max(held) if min(held) >= NOT_NEGATIVE else ANY
