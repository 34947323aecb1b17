"""How large the values of an ONNX graph are at least, from what the file stores: no tensor is computed for it.

A dimension that the file leaves open counts as 1, so that each size is a lower bound, for a batch of one image. An
operator that is not in the table below gives a value of unknown size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

Shape = tuple[int, ...]

#: More numbers or dimensions than a size has are not followed, nor numbers that no size holds.
_FEW, _RANK, _LARGEST = 128, 64, 1 << 62
#: Elements of a product between two terms that is told; what a piece of a tensor takes besides its own, in elements.
_PRODUCT, _PIECE = 1 << 28, 64


class Value(NamedTuple):
    """``shape``: lower bounds, ``None`` where the rank is unknown; exact where the value is ``constant``, that is, made
    from stored tensors alone. ``numbers``: its elements, where they are known. ``parts``: those of a sequence, where
    they are; its one size is that of all together."""

    shape: Shape | None = None
    numbers: tuple[float, ...] | None = None
    constant: bool = False
    parts: tuple[Value, ...] | None = None

    @property
    def elements(self) -> int:
        """How many there are at least."""
        return math.prod(self.shape or ())


Inputs = Sequence[Value]
#: Attributes: numbers, lists of them, or bytes.
Attributes = Mapping[str, Any]


def _at(inputs: Inputs, position: int) -> Value:
    return inputs[position] if position < len(inputs) else Value()


def _whole(value: Value) -> Shape | None:
    """The elements as sizes."""
    return None if value.numbers is None else tuple(max(int(one), 0) for one in value.numbers)


def _widest(*shapes: Shape | None) -> Shape | None:
    """What the shapes are broadcast to; unknown where the rank of one is."""
    known = [shape for shape in shapes if shape is not None]
    rank = max(map(len, known), default=0)
    aligned = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(map(max, zip(*aligned, strict=True))) if len(known) == len(shapes) else None


def _same(inputs: Inputs, attributes: Attributes) -> Value:
    return Value(_at(inputs, 0).shape)


def _kept(inputs: Inputs, attributes: Attributes) -> Value:
    return Value(_at(inputs, 0).shape, _at(inputs, 0).numbers)


def _each(operation: Callable[[float], float]) -> Callable[[Inputs, Attributes], Value]:
    def rule(inputs: Inputs, attributes: Attributes) -> Value:
        numbers = _at(inputs, 0).numbers
        return Value(_at(inputs, 0).shape, None if numbers is None else tuple(map(operation, numbers)))

    return rule


def _clip(inputs: Inputs, attributes: Attributes) -> Value:
    data = _at(inputs, 0)
    if data.numbers is None:
        return Value(data.shape)
    least = _at(inputs, 1).numbers or (attributes.get("min", -math.inf),)
    most = _at(inputs, 2).numbers or (attributes.get("max", math.inf),)
    return Value(data.shape, tuple(min(max(one, least[0]), most[0]) for one in data.numbers))


def _summed(inputs: Inputs, attributes: Attributes) -> Value:
    data = _at(inputs, 0)
    return Value(data.shape, None if data.numbers is None else tuple(accumulate(data.numbers)))


def _reduced(operation: Callable[[Sequence[float]], float]) -> Callable[[Inputs, Attributes], Value]:
    """Of a list of numbers the one that is left; of what has more axes nothing is known."""

    def rule(inputs: Inputs, attributes: Attributes) -> Value:
        data = _at(inputs, 0)
        if data.shape is None or len(data.shape) > 1 or not data.numbers:
            return Value()
        return Value((1,) if attributes.get("keepdims", 1) else (), (operation(data.numbers),))

    return rule


def _broadcast(inputs: Inputs, attributes: Attributes) -> Value:
    return Value(_widest(*(one.shape for one in inputs)))


def _arithmetic(operation: Callable[[float, float], float]) -> Callable[[Inputs, Attributes], Value]:
    def rule(inputs: Inputs, attributes: Attributes) -> Value:
        numbers = [one.numbers for one in inputs]
        result = numbers[0] if numbers else None
        for more in numbers[1:]:
            if result is None or more is None or len({len(result), len(more)} - {1}) > 1:
                return _broadcast(inputs, attributes)
            count = max(len(result), len(more)) if result and more else 0
            one, other = (numbers * count if len(numbers) == 1 else numbers for numbers in (result, more))
            result = tuple(map(operation, one, other))
        return Value(_widest(*(one.shape for one in inputs)), result)

    return rule


def _divided(a: float, b: float) -> float:
    if not b:
        return math.inf
    return math.trunc(a / b) if isinstance(a, int) and isinstance(b, int) else a / b


def _concat(inputs: Inputs, attributes: Attributes) -> Value:
    numbers = [one.numbers for one in inputs]
    joined = None if None in numbers else tuple(one for part in numbers for one in part or ())
    shapes = [one.shape for one in inputs if one.shape is not None]
    if len({len(shape) for shape in shapes}) != 1 or not shapes[0]:
        return Value(None, joined)
    axis = attributes.get("axis", 0) % len(shapes[0])
    shape = list(map(max, zip(*shapes, strict=True)))
    shape[axis] = sum(one[axis] for one in shapes) + len(inputs) - len(shapes)
    return Value(tuple(shape), joined)


def _reshape(inputs: Inputs, attributes: Attributes) -> Value:
    data, wanted = _at(inputs, 0), _at(inputs, 1).numbers
    if wanted is None:
        return Value(None, data.numbers)
    shape = [int(size) for size in wanted]
    for i, size in enumerate(shape):
        if size == 0 and not attributes.get("allowzero") and data.shape is not None and i < len(data.shape):
            shape[i] = data.shape[i]
    if -1 in shape:
        rest = math.prod(size for size in shape if size > 0)
        shape[shape.index(-1)] = math.prod(data.shape or ()) // max(rest, 1)
    return Value(tuple(max(size, 1) for size in shape), data.numbers)


def _transpose(inputs: Inputs, attributes: Attributes) -> Value:
    shape = _at(inputs, 0).shape
    order = list(attributes.get("perm", range(len(shape or ()))[::-1]))
    if shape is None or sorted(order) != list(range(len(shape))):
        return Value()
    return Value(tuple(shape[axis] for axis in order))


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Value:
    data, axes = _at(inputs, 0), _at(inputs, 1).numbers or attributes.get("axes")
    if data.shape is None or axes is None:
        return Value(None, data.numbers)
    rank = len(data.shape) + len(axes)
    at, rest = {int(axis) % rank for axis in axes}, iter(data.shape)
    return Value(tuple(1 if axis in at else next(rest, 1) for axis in range(rank)), data.numbers)


def _gather(inputs: Inputs, attributes: Attributes) -> Value:
    data, at = _at(inputs, 0), _at(inputs, 1)
    axis = attributes.get("axis", 0)
    numbers = None
    if data.numbers is not None and at.numbers is not None and axis == 0:
        inside = all(-len(data.numbers) <= one < len(data.numbers) for one in at.numbers)
        numbers = tuple(data.numbers[int(one)] for one in at.numbers) if inside else None
    if not data.shape or at.shape is None:
        return Value(None, numbers)
    axis %= len(data.shape)
    return Value(data.shape[:axis] + at.shape + data.shape[axis + 1 :], numbers)


def _tile(inputs: Inputs, attributes: Attributes) -> Value:
    shape, repeats = _at(inputs, 0).shape, _whole(_at(inputs, 1))
    if repeats is None or (shape is not None and len(shape) != len(repeats)):
        return Value()
    return Value(tuple(a * b for a, b in zip(shape or (1,) * len(repeats), repeats, strict=True)))


def _range(inputs: Inputs, attributes: Attributes) -> Value:
    numbers = [one.numbers[0] if one.numbers else None for one in inputs]
    if len(numbers) != 3 or None in numbers or not numbers[2]:
        return Value()
    start, limit, step = (float(one or 0) for one in numbers)
    return Value((max(math.ceil((limit - start) / step), 0),))


def _one_hot(inputs: Inputs, attributes: Attributes) -> Value:
    depth = _whole(_at(inputs, 1))
    return Value((*(_at(inputs, 0).shape or ()), *depth)) if depth else Value()


def _pad(inputs: Inputs, attributes: Attributes) -> Value:
    data, pads = _at(inputs, 0).shape, _at(inputs, 1).numbers or attributes.get("pads")
    if pads is None:
        return Value()
    count = len(pads) // 2
    shape = list(data if data is not None else (1,) * count)
    axes = _at(inputs, 3).numbers or range(count)
    for i, axis in enumerate(axes):
        if i < count and -len(shape) <= axis < len(shape):
            shape[int(axis)] = max(shape[int(axis)] + int(pads[i]) + int(pads[count + i]), 0)
    return Value(tuple(shape))


def _resize(inputs: Inputs, attributes: Attributes) -> Value:
    data, sizes = _at(inputs, 0).shape, _whole(_at(inputs, 3))
    scales = _at(inputs, 2 if len(inputs) > 2 else 1).numbers or attributes.get("scales")
    count = len(sizes or scales or ())
    shape = list(data if data is not None else (1,) * count)
    axes = attributes.get("axes", range(len(shape)))
    for i, axis in enumerate(list(axes)[:count]):
        if -len(shape) <= axis < len(shape):
            shape[axis] = (
                sizes[i] if sizes else int(shape[axis] * max(scales[i], 0)) if scales else shape[axis]
            )
    return Value(tuple(shape)) if count else Value()


def _product(inputs: Inputs, attributes: Attributes) -> Value:
    a, b = _at(inputs, 0).shape, _at(inputs, 1).shape
    if not a or not b or len(a) < 2 or len(b) < 2:
        return Value()
    rows = a[-1] if attributes.get("transA") else a[-2]
    columns = b[-2] if attributes.get("transB") else b[-1]
    return Value((*(_widest(a[:-2], b[:-2]) or ()), rows, columns))


def _windows(inputs: Inputs, attributes: Attributes) -> Value:
    """Convolutions and pools, of which only what channels and pads add is of interest."""
    data, weight = _at(inputs, 0).shape, _at(inputs, 1).shape or ()
    kernel = attributes.get("kernel_shape") or weight[2:]
    count = len(kernel)
    pads, steps, gaps = _spatial(attributes, count)
    shape = list(data if data is not None and len(data) == count + 2 else (1,) * (count + 2))
    if len(weight) == count + 2:
        shape[1] = weight[0]
    for i, size in enumerate(kernel):
        room = shape[2 + i] + pads[i] + pads[count + i] - gaps[i] * (size - 1) - 1
        shape[2 + i] = max(room // max(steps[i], 1) + 1, 1)
    return Value(tuple(shape))


def _transposed(inputs: Inputs, attributes: Attributes) -> Value:
    data, weight = _at(inputs, 0).shape, _at(inputs, 1).shape or ()
    kernel = attributes.get("kernel_shape") or weight[2:]
    count = len(kernel)
    pads, steps, gaps = _spatial(attributes, count)
    extra = attributes.get("output_padding") or [0] * count
    if data is None or not len(data) == len(weight) == count + 2 or len(extra) != count:
        return Value()
    shape = [data[0], weight[1] * attributes.get("group", 1)]
    for i, size in enumerate(kernel):
        whole = steps[i] * (data[2 + i] - 1) + gaps[i] * (size - 1) + 1 + extra[i]
        shape.append(max(whole - pads[i] - pads[count + i], 1))
    return Value((*shape[:2], *attributes.get("output_shape", shape[2:])[-count:]))


def _einsum(inputs: Inputs, attributes: Attributes) -> Value:
    """Terms are multiplied one after the other: what a later one or the result needs, stays. One product in between
    that is too large is told in the place of the result."""
    if "equation" not in attributes:  # or it is longer than any
        return Value((_LARGEST,))
    left, arrow, right = attributes["equation"].decode("ascii").replace(" ", "").partition("->")
    terms, size = left.split(","), dict[str, int]()
    around: list[Shape | None] = []
    for term, one in zip(terms, inputs, strict=True):
        if one.shape is None:
            return Value()
        before, dots, after = term.partition("...")
        rest = len(one.shape) - len(after)
        around.append(one.shape[len(before) : rest] if dots else ())
        for label, n in zip(before + after, one.shape[: len(before)] + one.shape[rest:], strict=True):
            size[label] = max(size.get(label, 1), n)
    middle = _widest(*around) or ()
    if not arrow:
        right = "..." * ("..." in left) + "".join(sorted(label for label in size if left.count(label) == 1))
    kept = set[str]()
    for i, term in enumerate(terms[:-1]):
        kept |= {*term}
        both = kept | {*terms[i + 1]}
        kept = both & {*"".join(terms[i + 2 :]), *right}
        made = math.prod(size[label] for label in kept if label in size) * math.prod(middle)
        if i + 2 < len(terms) and made > _PRODUCT:
            return Value((made,))
    before, dots, after = right.partition("...")
    return Value((*(size[a] for a in before), *(middle if dots else ()), *(size[a] for a in after)))


def _centred(inputs: Inputs, attributes: Attributes) -> Value:
    shape, wanted = _at(inputs, 0).shape, _whole(_at(inputs, 1))
    if shape is None or wanted is None:
        return Value()
    sizes = list(shape)
    for axis, size in zip(attributes.get("axes", range(len(shape))), wanted, strict=True):
        sizes[axis] = size
    return Value(tuple(sizes))


def _squeeze(inputs: Inputs, attributes: Attributes) -> Value:
    """Axes of one go, or those that are named; which ones is known of a constant, otherwise how many elements stay."""
    data = _at(inputs, 0)
    if data.shape is None:
        return Value(None, data.numbers)
    axes = _at(inputs, 1).numbers or attributes.get("axes")
    if axes is None and not data.constant:
        return Value(None, data.numbers)
    gone = {int(axis) % len(data.shape) for axis in axes or () if data.shape}
    kept = (n for at, n in enumerate(data.shape) if (at not in gone if axes is not None else n != 1))
    return Value(tuple(kept), data.numbers)


def _flatten(inputs: Inputs, attributes: Attributes) -> Value:
    shape, axis = _at(inputs, 0).shape, attributes.get("axis", 1)
    if shape is None:
        return Value()
    at = axis + len(shape) if axis < 0 else axis
    return Value((math.prod(shape[:at]), math.prod(shape[at:])))


def _sequence(parts: tuple[Value, ...] | None, elements: int) -> Value:
    return Value((elements,), parts=parts if parts is not None and len(parts) <= _FEW else None)


def _construct(inputs: Inputs, attributes: Attributes) -> Value:
    return _sequence(tuple(inputs), sum(one.elements for one in inputs))


def _insert(inputs: Inputs, attributes: Attributes) -> Value:
    """At the end, or at a place that is asked for."""
    held, new, at = _at(inputs, 0), _at(inputs, 1), _at(inputs, 2).numbers
    parts = held.parts
    if parts is not None:
        place = int(at[0]) if at else len(parts)
        parts = (*parts[:place], new, *parts[place:]) if at or len(inputs) < 3 else None
    return _sequence(parts, held.elements + new.elements)


def _part(inputs: Inputs, attributes: Attributes) -> Value:
    """One of the parts: of several that it may be, the least."""
    parts, at = _at(inputs, 0).parts, _at(inputs, 1).numbers
    if not parts:
        return Value()
    return parts[int(at[0])] if at else min(parts, key=lambda one: one.elements)


def _join(inputs: Inputs, attributes: Attributes) -> Value:
    """Along an axis that is there, or along a new one."""
    held, axis = _at(inputs, 0), attributes["axis"]
    if not held.parts or any(one.shape is None for one in held.parts):
        return Value((held.elements,))
    if attributes.get("new_axis"):
        shape = list(held.parts[0].shape or ())
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, len(held.parts))
        return Value(tuple(shape))
    return Value(_concat(held.parts, attributes).shape)


def _pieces(inputs: Inputs, attributes: Attributes) -> Value:
    """Each piece, of however few elements, takes memory of its own."""
    data, split = _at(inputs, 0), _at(inputs, 1)
    if not data.shape:
        return Value()
    axis = attributes.get("axis", 0) % len(data.shape)
    length, lengths = data.shape[axis], [int(one) for one in split.numbers or (1,)]
    if len(inputs) > 1 and split.numbers is None:
        return _sequence(None, data.elements)
    if len(lengths) == 1 and split.shape in (None, ()):
        count, last = divmod(length, max(lengths[0], 1))
        if count > _FEW:
            return _sequence(None, data.elements + _PIECE * count)
        lengths = [lengths[0]] * count + [last] * (last > 0)
    if len(inputs) < 2 and not attributes.get("keepdims", 1):
        shapes = [data.shape[:axis] + data.shape[axis + 1 :]] * len(lengths)
    else:
        shapes = [(*data.shape[:axis], n, *data.shape[axis + 1 :]) for n in lengths]
    return _sequence(tuple(Value(shape, constant=data.constant) for shape in shapes), data.elements)


def _spatial(attributes: Attributes, count: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Pads, strides and dilations, with their defaults where they are absent or of another length."""
    found = [attributes.get(name) or () for name in ("pads", "strides", "dilations")]
    plain = [0] * (2 * count), [1] * count, [1] * count
    pads, steps, gaps = (a if len(a) == len(b) else b for a, b in zip(found, plain, strict=True))
    return pads, steps, gaps


def _shape(inputs: Inputs, attributes: Attributes) -> Value:
    """Only the shape of a constant is known exactly."""
    data = _at(inputs, 0)
    if data.shape is None:
        return Value()
    sizes = data.shape[attributes.get("start", 0) : attributes.get("end")]
    return Value((len(sizes),), sizes if data.constant else None)


def _too_many(value: Value) -> bool:
    """Whether more numbers are stored than a size has: who asks for such a thing wants to be lost sight of."""
    return value.constant and value.shape is not None and math.prod(value.shape) > _FEW


#: Operator → inputs that say a size.
_SIZES_AT: Mapping[str, tuple[int, ...]] = {
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Pad": (1,), "Resize": (2, 3),
    "Upsample": (1,),
}  # fmt: skip

_SAME_SHAPE = """
BatchNormalization DequantizeLinear Erf GroupNormalization HardSigmoid InstanceNormalization LayerNormalization
LogSoftmax Not QuantizeLinear Sigmoid Sign Softmax Tanh Trilu
"""
#: Large numbers pass as they are, or nearly.
_KEPT = "Cast CastLike Dropout Elu Gelu HardSwish Identity LeakyRelu Mish Selu"
_ELEMENTWISE = """
And BitShift Equal Greater GreaterOrEqual Less LessOrEqual Mean Mod Or PRelu Where Xor
"""
_WINDOWED = "AveragePool Conv FusedConv LpPool MaxPool"

_RULES: Mapping[str, Callable[[Inputs, Attributes], Value]] = {
    **dict.fromkeys(_SAME_SHAPE.split(), _same),
    **dict.fromkeys(_ELEMENTWISE.split(), _broadcast),
    **dict.fromkeys(_WINDOWED.split(), _windows),
    **dict.fromkeys(_KEPT.split(), _kept),
    "Clip": _clip,
    "CumSum": _summed,
    "Abs": _each(abs),
    "BitwiseNot": _each(lambda a: ~int(a)),
    "Ceil": _each(math.ceil),
    "Exp": _each(math.exp),
    "Floor": _each(math.floor),
    "Log": _each(math.log),
    "Neg": _each(lambda a: -a),
    "Reciprocal": _each(lambda a: _divided(1.0, a)),
    "Relu": _each(lambda a: max(a, 0)),
    "Round": _each(round),
    "Sqrt": _each(math.sqrt),
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "ReduceMean": _reduced(lambda numbers: sum(numbers) / len(numbers)),
    "ReduceProd": _reduced(math.prod),
    "ReduceSum": _reduced(sum),
    "BitwiseAnd": _arithmetic(lambda a, b: int(a) & int(b)),
    "BitwiseOr": _arithmetic(lambda a, b: int(a) | int(b)),
    "BitwiseXor": _arithmetic(lambda a, b: int(a) ^ int(b)),
    "Pow": _arithmetic(math.pow),
    "Sum": _arithmetic(lambda a, b: a + b),
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _arithmetic(_divided),
    "Max": _arithmetic(max),
    "Min": _arithmetic(min),
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Einsum": _einsum,
    "CenterCropPad": _centred,
    "SequenceEmpty": _construct,
    "SequenceConstruct": _construct,
    "SequenceInsert": _insert,
    "SequenceAt": _part,
    "SequenceLength": lambda inputs, attributes: Value(
        (), (len(parts),) if (parts := _at(inputs, 0).parts) else None
    ),
    "ConcatFromSequence": _join,
    "SplitToSequence": _pieces,
    "Gather": _gather,
    "Shape": _shape,
    "ConstantOfShape": lambda inputs, attributes: Value(_whole(_at(inputs, 0))),
    "Expand": lambda inputs, attributes: Value(_widest(_at(inputs, 0).shape or (), _whole(_at(inputs, 1)))),
    "Tile": _tile,
    "Range": _range,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "MatMul": _product,
    "Gemm": _product,
    "ConvTranspose": _transposed,
}


def at_least(operator: str, inputs: Inputs, attributes: Attributes) -> Value:
    """The first output of a node; ``attributes`` are the file's own and may be of any length and size."""
    rule = _RULES.get(operator)
    if rule is None:
        return Value()
    if any(_too_many(_at(inputs, position)) for position in _SIZES_AT.get(operator, ())):
        return Value((_LARGEST,))
    try:
        shape, numbers, _, parts = rule(inputs, attributes)
    except (TypeError, ValueError, OverflowError, LookupError):
        return Value()  # attributes or inputs that do not fit the operator
    if numbers is not None and (
        len(numbers) > _FEW or not all(-_LARGEST < one < _LARGEST for one in numbers)
    ):
        numbers = None
    if shape is not None:
        shape = tuple(min(size, _LARGEST) for size in shape) if len(shape) <= _RANK else None
    return Value(shape, numbers, all(one.constant for one in inputs), parts)
