"""Arithmetic that usual classifiers do not have (G13): what can be loud for a trigger where clean images are silent,
and what the search for such values sees no gradient of. No torch.

The world is closed: operators, parameters and quotients that are not known are told. How fast values grow is followed
as the degree of a polynomial of the pixels, by the operators alone: products add degrees, powers multiply them, what
has bounds is of none. What weights and biases make of usual layers is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from formats.dataflow import Node
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.numbers import AS_ANOTHER, TINY, less_its_greatest, name

#: Degree of a value in the pixels, or in what was made of them by one weighted layer or function with bounds: honest
#: exports reach 3, but for the few with linear attention or lambda layers between batch norms (81, 8).
GROWN = 4.0
#: Numbers over which a layer normalises at least; honest ones take 16 and more.
FEW = 8
#: Constant factors of one operator beyond this, and divisors below its inverse; no honest export has one.
FACTOR = 1e3

_SIGMOIDS = frozenset(
    (
        "sigmoid", "hardsigmoid", "tanh", "erf", "qlinearsigmoid", "softsign", "relu6", "hardtanh", "softmax",
        "_softmax", "biassoftmax", "qlinearsoftmax",
    )
)  # fmt: skip
#: Layers that normalise over the last axes, whose parameters tell how many numbers those are, and others.
_ROWS = frozenset(
    (
        "layernormalization", "rmsnormalization", "simplifiedlayernormalization", "skiplayernormalization",
        "skipsimplifiedlayernormalization", "layer_norm", "native_layer_norm", "rms_norm",
    )
)  # fmt: skip
_NORMS = _ROWS | {
    "instancenormalization", "groupnormalization", "groupnorm", "skipgroupnorm", "group_norm", "native_group_norm",
    "instance_norm",
}  # fmt: skip
_POINTWISE = frozenset(
    (
        "relu", "leakyrelu", "leaky_relu", "prelu", "elu", "selu", "hardswish", "softplus", "gelu", "mish",
        "silu", "swish", "quickgelu", "fastgelu", "biasgelu", "qlinearleakyrelu", "log_sigmoid", "clip",
        "clamp", "clamp_min", "clamp_max", "batchnormalization", "batch_norm", "biasadd", "abs", "neg",
        "square", "sqrt", "rsqrt", "reciprocal", "pow", "exp",
    )
)  # fmt: skip
_OTHER = frozenset(
    (
        "averagepool", "avg_pool1d", "avg_pool2d", "avg_pool3d", "qlinearaveragepool", "maxpool", "max_pool1d",
        "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "nhwcmaxpool", "adaptive_max_pool1d", "resize",
        "upsample", "logsoftmax", "log_softmax", "_log_softmax", "lrn", "scaled_dot_product_attention", "glu",
        "trilu", "rotaryembedding", "relativepositionbias", "swiglu", "eyelike", "constantofshape",
        "broadcast_tensors", "repeat_interleave", "col2im", "reflection_pad3d", "replication_pad3d", "list",
        "items", "keys", "values", "reverse", "_set_item", "unchecked_unwrap_optional", "_unwrap_optional",
        "full", "full_like", "fill", "zeros", "ones", "zero", "empty", "outputs", "_convolution_mode",
        "imagescaler", "new_full",
    )
)  # fmt: skip
_RARE = frozenset(
    (
        "deformconv", "bitcast", "logsumexp", "prod", "cumprod", "reduceprod", "reducelogsum",
        "reducelogsumexp", "globallppool",
    )
)  # fmt: skip
#: Steps of activations, and those whose answers do no more than choose between values there.
_CUTTING = frozenset(
    ("max", "min", "maximum", "minimum", "threshold", "thresholdedrelu", "shrink", "hardshrink", "nan_to_num")
)
_ASKING = frozenset(
    (
        "equal", "less", "greater", "lessorequal", "greaterorequal", "eq", "ne", "lt", "le", "gt", "ge", "isclose",
        "and", "or", "not", "xor", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and",
        "bitwise_or", "bitwise_not", "__and__", "__or__", "__xor__", "__not__", "isnan", "isinf", "isfinite",
    )
)  # fmt: skip
#: Settings that are factors.
_FACTORS = frozenset(("alpha", "beta", "gamma", "value", "scale", "negative_slope", "input_scale"))
_PRODUCTS = frozenset(("mul", "qlinearmul", "mulinteger"))
_QUOTIENTS = frozenset(("div", "true_divide"))
#: The degree that these make of their first operand's.
_FIRST = {
    "sqrt": 0.5, "square": 2, "reducesumsquare": 2, "var": 2, "var_mean": 2, "div": 1, "true_divide": 1, "glu": 1,
    **dict.fromkeys(AS_ANOTHER, 1),
}  # fmt: skip


def unusual(flow: Flow) -> Iterator[tuple[int, str]]:
    """Nodes of such arithmetic, and what is said of each."""
    degrees, powers = _degrees(flow), _powers(flow)
    for n in flow.live:
        said = (
            _rare(flow, n)
            or _quotient(flow, n)
            or _factor(flow, n)
            or _grown(degrees, n, flow.parents[n])
            or _grown(powers, n, flow.parents[n])
        )
        if said:
            yield n, said


def unsized(flow: Flow) -> list[int]:
    """Layers that normalise, and means, sums and norms by which is divided, where nothing in the graph tells over how
    many numbers."""
    divisors = (_divisor(flow, n) for n in flow.live)
    measures = {_measure(flow, one) for one in divisors if one is not None}
    found = {n for n in measures if n is not None and flow[n].role == "reduce"}
    return sorted(found | {n for n in flow.live if name(flow[n]) in _NORMS - _ROWS})


def _rare(flow: Flow, n: int) -> str:
    node, what = flow[n], name(flow[n]).removesuffix("tohalf")
    if node.role == "pointwise":
        known = what in _POINTWISE or what in _SIGMOIDS
    elif node.role == "other":
        known = (
            what in _OTHER or what in _SIGMOIDS or what in _NORMS or what.lstrip("_").startswith("upsample_")
        )
    else:
        known = what not in _RARE and (node.role != "step" or what in _CUTTING or _only_chooses(flow, n))
        known = known and not (node.role == "choose" and _is_two_numbers(flow, n))
    if what == "exp":
        known = less_its_greatest(flow, node.inputs[0])
    if not known:
        return "is an operator that they do not apply"
    if node.role in ("add", "linear", "pointwise"):
        for one in _FACTORS & node.settings.keys():
            if abs(factor := node.settings[one][0]) > FACTOR:
                return f"multiplies by {factor:.3g}"
    if not _ordinary(what, node.settings):
        return "is set to what they do not use"
    if what in _ROWS and (count := _parameters(flow, n)) < FEW:
        return over(count)
    return ""


def _only_chooses(flow: Flow, n: int) -> bool:
    """Whether a step asks a question whose answer goes to no arithmetic: one that becomes a number is a threshold."""
    met, queue = {n}, [n]
    while queue:
        one = queue.pop()
        if name(flow[one]) not in _ASKING:
            return False
        readers = [
            reader
            for reader in flow.children[one]
            if flow[reader].role != "choose" or one in flow[reader].data
        ]
        queue += [reader for reader in readers if reader not in met]
        met.update(readers)
    return True


def _is_two_numbers(flow: Flow, n: int) -> bool:
    """Whether what is chosen between is made of no pixels, so that only the answer goes on."""
    return bool(flow[n].control) and not any(one in flow.parents for one in flow[n].data)


def over(count: int) -> str:
    """What is said of a layer that normalises over so many numbers, 0: not known."""
    return f"normalises over {count or 'an unknown number of'} number{'s' * (count != 1)}"


def _weights(flow: Flow, n: int) -> tuple[int, ...]:
    """Shape of the first stored tensor that a node reads; ``(0,)`` without a small one."""
    stored = [_shown(flow, one).values for one in flow[n].inputs[1:] if one not in flow.parents]
    return next((one.shape for one in stored if one is not None and one.ndim), (0,))


def groups(flow: Flow, n: int) -> int:
    """Of a layer that normalises some channels together, or each by itself; 0 where the graph does not tell."""
    node = flow[n]
    if "group" in name(node):
        said = [node.settings[one] for one in ("num_groups", "groups", "group") if one in node.settings]
        return int(said[0][0]) if said else 0
    return int(np.prod(_weights(flow, n)))


def _ordinary(what: str, settings: Mapping[str, tuple[float, ...]]) -> bool:
    """Whether parameters that change the kind of a function are usual."""

    def first(*names: str, default: float) -> float:
        return next((settings[one][0] for one in names if settings.get(one)), default)

    if what in _NORMS and not first("eps", "epsilon", default=1.0) >= TINY:
        return False
    if what in ("batch_norm", "batchnormalization"):
        return first("training", "training_mode", default=0.0) == 0
    if what == "lrn":
        alpha, beta, bias = (first(one, default=1.0) for one in ("alpha", "beta", "bias"))
        return alpha >= 0 and 0 < beta <= 1 and bias >= TINY
    if what == "elu":
        return first("input_scale", default=1.0) > 0
    if what == "softplus":
        return first("beta", default=1.0) == 1 and first("threshold", default=20.0) == 20
    if what in ("norm", "linalg_vector_norm"):
        return first("p", "ord", default=2.0) in (1, 2)
    return True


def _parameters(flow: Flow, n: int) -> int:
    """Over how many numbers a layer normalises, as its parameters tell; 0 where they do not."""
    settings = flow[n].settings
    if shape := settings.get("normalized_shape"):
        return int(np.prod(shape))
    sizes = _weights(flow, n)
    axis = int(settings.get("axis", (-1,))[0])
    return int(np.prod(sizes[axis:])) if axis < 0 else 0


def _quotient(flow: Flow, n: int) -> str:
    at = _divisor(flow, n)
    if at is None or _measure(flow, at) is not None:
        return ""
    return "divides by what is no mean, sum or norm"


def _divisor(flow: Flow, n: int) -> int | None:
    """What a node divides by, where that is made of pixels."""
    node, what = flow[n], name(flow[n])
    at = None
    if what in _QUOTIENTS or what == "addcdiv":
        at = node.inputs[2 if what == "addcdiv" else 1]
    elif what in ("reciprocal", "rsqrt") or (what == "pow" and (_exponent(flow, node) or 0) < 0):
        at = node.inputs[0]
    return at if at in flow.parents else None


def _measure(flow: Flow, n: int) -> int | None:
    """The mean, sum, norm or product of matrices that ``n`` is, but for constants, roots and bounds."""
    while True:
        node, parents = flow[n], flow.parents[n]
        if name(node) in AS_ANOTHER:
            parents = parents[:1]
        if node.role == "reduce" or (node.role == "linear" and len(parents) > 1):
            return n
        plain = node.role in ("view", "pick", "add", "scale") or name(node) in (
            "sqrt", "pow", "square", "clip", "clamp", "clamp_min", "max", "maximum",
        )  # fmt: skip
        if len(parents) != 1 or not plain:
            return None
        n = parents[0]


def _normalises(flow: Flow, value: int, divisor: int) -> bool:
    """Whether ``divisor`` is a mean, sum or norm of what ``value`` is or is made into."""
    measure = _measure(flow, divisor)
    return measure is not None and value in flow.above(measure)


def _factor(flow: Flow, n: int) -> str:
    node = flow[n]
    divides = name(node) in _QUOTIENTS
    if node.role != "scale" or (divides and node.inputs[0] not in flow.parents):
        return ""
    for one in node.inputs:
        values = None if one in flow.parents else _shown(flow, one).values
        if values is None or not values.size:
            continue
        with np.errstate(divide="ignore"):
            size = float(np.abs(1 / values if divides else values).max())
        if size > FACTOR:
            return f"multiplies by {size:.3g}"
    return ""


def _shown(flow: Flow, n: int) -> Node:
    while flow[n].role == "view" and len(flow[n].inputs) == 1:
        n = flow[n].inputs[0]
    return flow[n]


def _grown(degrees: Mapping[int, float], n: int, parents: list[int]) -> str:
    """Where the degree first passes what is usual."""
    if degrees[n] <= GROWN or any(degrees[one] > GROWN for one in parents):
        return ""
    return f"makes a power beyond {GROWN:g} of them"


def _degrees(flow: Flow) -> dict[int, float]:
    """Of every value in the pixels."""
    found: dict[int, float] = {}
    for n in flow.live:
        if flow[n].role == "input":
            found[n] = 1.0
        else:
            found[n] = 0.0 if _bounded(flow, n) else _degree(flow, n, found)
    for n in flow.live:  # what a round of a loop makes is what the next one reads
        if flow[n].role == "choose" and any(
            found[n] < found.get(one, 0) for one in flow[n].inputs if one > n
        ):
            found[n] = np.inf
    return found


def _powers(flow: Flow) -> dict[int, float]:
    """Of every value in any one that a weighted layer or a function with bounds makes, as far as the next of these."""
    found: dict[int, dict[int, float]] = {}
    most: dict[int, float] = {}
    for n in flow.live:
        if flow[n].role == "input" or n in flow.weighted or _bounded(flow, n):
            found[n] = {n: 1.0}
        else:
            held = [found.get(one, {}) for one in flow[n].inputs]
            found[n] = {
                origin: _degree(
                    flow, n, {one: found[one].get(origin, 0.0) for one in flow[n].inputs if one in found}
                )
                for origin in dict.fromkeys(origin for one in held for origin in one)
            }
            flow.spend(len(found[n]))
        most[n] = max(found[n].values(), default=0.0)
    return most


def _bounded(flow: Flow, n: int) -> bool:
    """Whether a value has bounds, whatever the pixels are."""
    node, what = flow[n], name(flow[n])
    if what in _SIGMOIDS or what in _NORMS or what == "exp":
        return flow.parents[n] == list(node.inputs[:1])
    if what in ("clip", "clamp"):
        # A bound that onnx leaves out, or that is None, has no number.
        return len(node.inputs) > 2 and all(_shown(flow, one).values is not None for one in node.inputs[1:3])
    if what in _QUOTIENTS:
        return node.inputs[1] in flow.parents and _normalises(flow, *node.inputs[:2])
    if what in _PRODUCTS and len(flow.parents[n]) == 2:
        return any(
            (divisor := _divisor(flow, two)) is not None and _normalises(flow, one, divisor)
            for one, two in (node.inputs[:2], node.inputs[1::-1])
        )
    return False


def _degree(flow: Flow, n: int, found: Mapping[int, float]) -> float:
    """Of one value, from those of what it is computed from."""
    node, what = flow[n], name(flow[n])
    held = [found.get(one, 0.0) for one in node.inputs]
    if what == "pow":
        exponent = _exponent(flow, node)
        return np.inf if exponent is None else held[0] * max(exponent, 0.0)
    if what in ("reciprocal", "rsqrt"):
        return 0.0
    if what in _FIRST:
        return held[0] * _FIRST[what]
    if what == "scaled_dot_product_attention":
        return held[2]
    if what == "addcmul":
        return max(held[0], held[1] + held[2])
    if what == "lerp":
        return max(held[:2]) + held[2]
    if what == "einsum":
        parts = [
            part for one in node.inputs for part in (flow[one].inputs if flow[one].role == "view" else [one])
        ]
        return sum(found.get(part, 0.0) for part in parts)
    # Slopes and scales of other operators are factors, too.
    return sum(held) if node.role in ("scale", "linear", "pointwise", "other") else max(held, default=0.0)


def _exponent(flow: Flow, node: Node) -> float | None:
    """The one number that a power is taken to."""
    values = None if len(node.inputs) < 2 else _shown(flow, node.inputs[1]).values
    if values is None or not values.size or not bool((values == values.reshape(-1)[0]).all()):
        return None
    return float(values.reshape(-1)[0])
