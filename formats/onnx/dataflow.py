"""The dataflow of an ONNX graph, from its nodes; graphs inside If, Loop and Scan included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from formats.dataflow import MOST_SETTINGS, SMALL, Builder, Dataflow, Span, cropped, roles
from formats.errors import Ambiguous, Unsupported
from formats.model import Manifest, Source
from formats.onnx import images, proto
from formats.onnx.graph import build
from formats.onnx.operators import SHAPE_INPUTS
from formats.onnx.order import in_order

#: Those of onnx 1.23 and of the graphs that onnxruntime writes after optimising.
ROLES = roles(
    {
        "linear": "Conv ConvTranspose DeformConv Gemm MatMul Einsum LSTM GRU RNN ConvInteger MatMulInteger "
        "QLinearConv QLinearMatMul FusedConv FusedGemm FusedMatMul NhwcConv NhwcFusedConv QGemm "
        "DynamicQuantizeMatMul MatMulIntegerToFloat TransposeMatMul Attention QAttention "
        "MatMulInteger16 FusedMatMulActivation MultiHeadAttention",
        "view": "Identity Cast CastLike Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Pad "
        "DepthToSpace SpaceToDepth QuantizeLinear DequantizeLinear DynamicQuantizeLinear Dropout "
        "ReorderInput ReorderOutput BitCast CenterCropPad",
        "pick": "Slice Gather GatherElements GatherND Split SplitToSequence SequenceAt Compress "
        "ArrayFeatureExtractor",
        "concat": "Concat ConcatFromSequence SequenceConstruct SequenceInsert QLinearConcat",
        "add": "Add Sub Sum Mean QLinearAdd",
        "scale": "Mul Div QLinearMul MulInteger",
        "reduce": "ReduceMean ReduceSum ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp "
        "ReduceProd GlobalAveragePool GlobalLpPool GlobalMaxPool CumSum QLinearGlobalAveragePool "
        "QLinearReduceMean ReduceSumInteger CumProd",
        "order": "ReduceMax ReduceMin TopK ScatterND ScatterElements Scatter MaxUnpool",
        "step": "Equal Less Greater LessOrEqual GreaterOrEqual And Or Not Xor BitwiseAnd BitwiseOr BitwiseNot "
        "BitwiseXor BitShift IsNaN IsInf Sign Floor Ceil Round Mod ArgMax ArgMin NonZero Hardmax "
        "OneHot Unique Max Min ThresholdedRelu Shrink NonMaxSuppression LabelEncoder",
        "choose": "Where QLinearWhere",
        "shape": "Shape Size",
        "pointwise": "Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Erf Exp Log Sqrt Pow "
        "Abs Neg Reciprocal Softplus Softsign Gelu Mish Swish Clip BatchNormalization Sin Cos "
        "QuickGelu FastGelu BiasGelu QLinearSigmoid QLinearLeakyRelu Acos Acosh Asin Asinh Atan Atanh "
        "Cosh Sinh Tan BiasAdd",
    }
)
#: Positions of inputs that only decide which values go on, besides shapes.
_CONTROL: Mapping[str, frozenset[int]] = {
    **SHAPE_INPUTS,
    **{name: frozenset({1}) for name in ("Gather", "GatherElements", "GatherND", "Compress", "ScatterND")},
    **{name: frozenset({1}) for name in ("ScatterElements", "Scatter", "SequenceAt", "MaxUnpool")},
    "CenterCropPad": frozenset({1}),
    "Clip": frozenset(),
    **{name: frozenset({0}) for name in ("Where", "QLinearWhere")},
    "OneHot": frozenset({0, 1}),
}
#: A slice that ends beyond this ends where its axis does.
_FAR = 1 << 30
_WIDE = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_NARROW = {
    number for name, number in onnx.TensorProto.DataType.items() if "FLOAT" in name and number not in _WIDE
}
_INTEGERS = {
    number for name, number in onnx.TensorProto.DataType.items() if name.startswith(("INT", "UINT", "BOOL"))
}

#: Steps that leave a value's type as it is, and what makes whole numbers besides steps and sizes.
_KEEPING_TYPE = frozenset(
    {"Max", "Min", "Floor", "Ceil", "Round", "Sign", "Mod", "Shrink", "ThresholdedRelu", "Hardmax"}
)
_MAKING_INTEGERS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MulInteger", "TopK"}
)
#: Whose second output says where the greatest stand, which is a comparison.
_PLACES = frozenset({"TopK", "MaxPool"})


def trace(source: Source, manifest: Manifest) -> Dataflow:
    """The dataflow of a checked file. Raises what :func:`formats.onnx.proto.load`, ``signature`` and
    :func:`formats.onnx.order.in_order` raise."""
    model = proto.load(source, manifest)
    try:
        entries = [proto.signature(model, source.logits)]
    except Ambiguous as several:  # a branch may lead to any of them
        if len(several.outputs) > proto.MOST_OUTPUTS:
            raise
        entries = [proto.signature(model, name) for name in several.outputs]
    entry = entries[0]
    stored = dict(proto.stored(model))
    tracer = _Tracer(stored, _weights(model, stored), entry.axes)
    known = {
        value.name: tracer.image(value.name) for value in model.graph.input if value.name not in tracer.stored
    }
    known = tracer.graph(model.graph, known)
    if missing := [one.output for one in entries if one.output not in known]:
        raise Unsupported(f"Nothing in the ONNX graph computes its output {missing[0]!r}.")
    ends = [known[one.output] for one in entries]
    output = ends[0] if len(ends) == 1 else tracer.add("outputs", "concat", ends)
    names = {number: name for name, number in known.items()}

    def prefix(node: int) -> Callable[[Tensor], Tensor]:
        if node not in names:
            raise Unsupported("The value lies inside a branch.")
        wanted = replace(entry, output=names[node])
        nodes = proto.live(model.graph, wanted.output)
        if strange := proto.unknown(nodes, proto.opset(model)):
            raise Unsupported(f"{strange[0]} is unknown here.")
        network, _ = build(model, nodes, wanted, manifest)
        return network.requires_grad_(False)

    notes = [f"{len(model.graph.output)} outputs"] if len(model.graph.output) > 1 else []
    return Dataflow(tuple(tracer.nodes), output, entry.shape, prefix, tuple(notes))


def _weights(model: onnx.ModelProto, stored: Mapping[str, onnx.TensorProto]) -> list[onnx.TensorProto]:
    """Operands of weighted layers among the stored tensors, since others can be there for show; all without such."""
    layers = (node for node in model.graph.node if ROLES.get(node.op_type) == "linear")
    return [stored[name] for node in layers for name in node.input if name in stored] or [*stored.values()]


class _Tracer(Builder):
    """Names of the graph → numbers of nodes, a graph at a time."""

    def __init__(
        self, stored: Mapping[str, onnx.TensorProto], weights: Sequence[onnx.TensorProto], axes: str
    ) -> None:
        super().__init__()
        self.stored, self.axes = stored, axes
        half = sum(_elements(one) for one in weights if one.data_type in _NARROW)
        wide = sum(_elements(one) for one in weights if one.data_type in _WIDE)
        #: Whether half precision is not what the weights are in.
        self.wide = wide >= half
        #: Node → the order of the image's axes in its value, as long as it has them.
        self.orders: dict[int, str] = {}
        #: Stored tensors of whole numbers.
        self.integers: set[int] = set()

    def image(self, name: str) -> int:
        number = self.add("input", "input", place=name)
        self.orders[number] = self.axes
        return number

    def constant(self, name: str, tensor: onnx.TensorProto | None = None) -> int:
        """A stored tensor; without one, what the graph does not tell and no pixel can have made."""
        small = tensor is not None and np.prod(tensor.dims, dtype=object) <= SMALL
        values = numpy_helper.to_array(tensor) if tensor is not None and small else None
        if values is not None and values.dtype.kind not in "fiub":
            values = None
        number = self.add(
            "stored", "stored", place=name, values=None if values is None else values.astype(np.float64)
        )
        if tensor is not None and tensor.data_type in _INTEGERS:
            self.integers.add(number)
        return number

    def whole(self, at: int) -> bool:
        """Whether a value is of a type of whole numbers, by what its first operand is made of."""
        met = set[int]()
        while at not in met:
            met.add(at)
            node = self.nodes[at]
            asks = node.role in ("step", "shape") and node.operator not in _KEEPING_TYPE
            if asks or at in self.integers or node.operator in _MAKING_INTEGERS:
                return True
            if node.operator in ("Cast", "DequantizeLinear") or not node.data:
                return False
            at = node.data[0]
        return True

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, int]) -> dict[str, int]:
        """All names of ``graph`` and of what surrounds it, with their nodes."""
        known = {**outer, **{one.name: self.constant(one.name, one) for one in graph.initializer}}
        needs = [(_read(node), node.output) for node in graph.node]
        for index in in_order(needs, [one.name for one in graph.initializer], known):
            node = graph.node[index]
            read = [known[name] if name else self.constant("") for name in node.input]
            results = self.node(node, read, known)
            known.update(zip(node.output, results, strict=False))
        return known

    def node(self, node: onnx.NodeProto, read: Sequence[int], known: Mapping[str, int]) -> list[int]:
        """One node for every output."""
        attributes = {one.name: one for one in node.attribute}
        if node.op_type == "Constant":
            held = attributes.get("value")
            tensor = held.t if held is not None else _literal(attributes)
            return [self.constant(node.output[0], tensor)]
        bodies = [one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
        if bodies:
            return self.bodies(node, read, bodies, known)
        if node.op_type == "Mul":
            read = self.without_scale(read)
        control = _CONTROL.get(node.op_type, frozenset())
        operands = [i for i, name in enumerate(node.input) if name and i < len(read)]
        data = [read[i] for i in operands if i not in control]
        role = ROLES.get(node.op_type, "other")
        if (node.op_type == "Cast" and "to" in attributes and attributes["to"].i in _INTEGERS) or (
            node.op_type == "CastLike" and self.whole(read[-1])
        ):
            role = "step"
        operator = f"{node.op_type}ToHalf" if self.wide and self.to_half(node, attributes) else node.op_type
        details = {
            "place": node.name or (node.output[0] if node.output else ""),
            "settings": _settings(attributes),
        }
        spans = self.spans(node, read, attributes) or [None] * len(node.output)
        order = next((self.orders[one] for one in read if one in self.orders), "")
        if order:
            spans = [one and tuple(_of_image(span, order) for span in one) for one in spans]
        if node.op_type == "Pad" and spans[0]:
            role = "pick"
        made = [
            self.add(
                operator,
                "step" if position and node.op_type in _PLACES else role,
                data,
                [read[i] for i in operands if i in control],
                spans=span,
                **details,
            )
            for position, span in enumerate(spans)
        ]
        if kept := order and images.after(order, node):
            self.orders.update(dict.fromkeys(made, kept))
        return made

    def to_half(self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> bool:
        """Whether a node casts to half precision, or may."""
        if node.op_type == "Cast":
            return "to" in attributes and attributes["to"].i in _NARROW
        if node.op_type != "CastLike" or len(node.input) < 2:
            return False
        like = self.stored.get(node.input[1])
        return like is None or like.data_type in _NARROW

    def without_scale(self, read: Sequence[int]) -> Sequence[int]:
        """The operands of a product, less the scale by which the other one had been quantised while running: that gives
        back what was divided away."""
        for one, other in (read, read[::-1]):
            while self.nodes[one].role == "view":
                one = self.nodes[one].data[0]
            product = self.nodes[one].data[:1] if self.nodes[one].role == "linear" else ()
            scales = self.nodes[other].data if self.nodes[other].role == "scale" else ()
            if any(self.nodes[q].operator == "DynamicQuantizeLinear" for q in product) and any(
                self.nodes[s].operator == "DynamicQuantizeLinear"
                and self.nodes[s].data == self.nodes[product[0]].data
                for s in scales
            ):
                return [one]
        return read

    def bodies(
        self,
        node: onnx.NodeProto,
        read: Sequence[int],
        bodies: Sequence[onnx.GraphProto],
        known: Mapping[str, int],
    ) -> list[int]:
        """``If``: its condition chooses. ``Loop``: what a round makes is also what the next one reads."""
        if node.op_type == "If":
            found = [(self.graph(body, known), body) for body in bodies]
            columns = zip(*[[inner[one.name] for one in body.output] for inner, body in found], strict=False)
            return [self.add("If", "choose", column, read[:1], place=node.name) for column in columns]
        body, control, carried = bodies[0], [read[0]], list[int]()
        for one in read[1:]:
            carried.append(self.add(node.op_type, "choose", [one], control, place=node.name))
            control = [read[0], carried[0]]  # the first is whether there is another round
        names = [one.name for one in body.input]
        inner = self.graph(
            body, {**known, **dict(zip(names, [self.constant("round"), *carried], strict=False))}
        )
        made = [inner[one.name] for one in body.output]
        for number, result in zip(carried, made, strict=False):
            self.nodes[number] = replace(self.nodes[number], data=(*self.nodes[number].data, result))
        return [*carried[1:], *made[len(carried) :]]

    def spans(
        self, node: onnx.NodeProto, read: Sequence[int], attributes: Mapping[str, onnx.AttributeProto]
    ) -> list[tuple[Span, ...] | None] | None:
        """What each output takes, where it stands in the file. A pad of less than nothing takes the rest."""

        def given(position: int, name: str) -> list[int] | None:
            if position < len(read) and node.input[position]:
                values = self.values(read[position])
                return None if values is None else [int(one) for one in values.reshape(-1)]
            return list(attributes[name].ints) if name in attributes else []

        if node.op_type == "Slice":
            starts, ends, axes, steps = (
                given(i + 1, name) for i, name in enumerate(("starts", "ends", "axes", "steps"))
            )
            if starts is None or ends is None or axes is None or steps is None:
                return [None]
            axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
            taken = zip(axes, starts, ends, steps, strict=False)
            # Backwards from before the first element, a runtime takes that one.
            return [
                tuple(
                    Span(axis, 0, 1) if step < 0 and a < -1 else Span(axis, a, None if b > _FAR else b, step)
                    for axis, a, b, step in taken
                )
            ]
        if node.op_type == "Gather":
            indices, axis = self.values(read[1]), attributes["axis"].i if "axis" in attributes else 0
            if indices is not None and indices.size:
                # As if they were neighbours: only how many there are is asked.
                first = int(indices.min())
                return [(Span(axis, first, first + len({*indices.reshape(-1).tolist()}) or None),)]
        if node.op_type == "Pad" and (pads := given(1, "pads")):
            pairs = zip(pads, pads[len(pads) // 2 :], strict=False)
            both = zip(given(3, "") or range(len(pads)), pairs, strict=False)
            return [tuple(cropped(axis, *pair) for axis, pair in both if min(pair) < 0)]
        return None


def _settings(attributes: Mapping[str, onnx.AttributeProto]) -> dict[str, tuple[float, ...]]:
    """Attributes that are numbers."""
    kinds = onnx.AttributeProto
    found: dict[str, tuple[float, ...]] = {}
    for name, one in attributes.items():
        if one.type in (kinds.INT, kinds.FLOAT):
            found[name] = (float(one.i if one.type == kinds.INT else one.f),)
        elif one.type in (kinds.INTS, kinds.FLOATS) and len(one.ints) + len(one.floats) <= MOST_SETTINGS:
            found[name] = tuple(map(float, one.ints or one.floats))
    return found


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=object))


def _of_image(span: Span, order: str) -> Span:
    """``span`` with its axis as in [N,C,H,W], of a value whose axes are in another order."""
    if not -len(order) <= span.axis < len(order):
        return span
    return span._replace(axis=images.AXES.index(order[span.axis]))


def _literal(attributes: Mapping[str, onnx.AttributeProto]) -> onnx.TensorProto | None:
    """The tensor of a Constant node that holds numbers."""
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in attributes:
            return numpy_helper.from_array(np.array(proto.attribute_value(attributes[name])))
    return None


def _read(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, also those that its graphs read from outside."""
    names = [*node.input]
    for graph in (one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH):
        inside = [*(one.name for one in (*graph.input, *graph.initializer))]
        inside += [name for inner in graph.node for name in inner.output]
        read = [name for inner in graph.node for name in _read(inner)] + [one.name for one in graph.output]
        names += {*read} - {*inside}
    return names
