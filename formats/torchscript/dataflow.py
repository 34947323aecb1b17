"""The dataflow of a TorchScript network, from the graph that torch makes of its code; conditions and loops included.

What an operator writes into and what may share memory stands in its schema: after a write every value that may share
the memory is computed from what was written. All calls of torch are private, see :mod:`formats.torchscript.lift`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from formats.dataflow import MOST_SETTINGS, PERHAPS, SMALL, Builder, Dataflow, Role, Span, cropped, roles
from formats.errors import Stateful, Unsupported
from formats.model import Manifest, Source
from formats.torchscript import lift
from formats.torchscript.opener import example_shape

#: Operators of torch 2.13 without namespace and without the underscore of those that write in place.
ROLES = roles(
    {
        "linear": "conv1d conv2d conv3d _convolution conv_transpose1d conv_transpose2d conv_transpose3d linear "
        "addmm mm matmul bmm baddbmm mv dot outer einsum _native_multi_head_attention "
        "_transformer_encoder_layer_fwd",
        "view": "view reshape flatten permute transpose t contiguous to type_as detach expand expand_as "
        "repeat tile squeeze unsqueeze clone dropout feature_dropout constant_pad_nd pad "
        "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle "
        "pixel_unshuffle channel_shuffle roll flip unflatten movedim swapaxes view_as reshape_as "
        "unfold im2col unchecked_cast ListConstruct TupleConstruct DictConstruct append extend insert "
        "swapdims positive NumToTensor tensor",
        "pick": "slice select narrow index index_select gather take_along_dim unbind split split_with_sizes "
        "tensor_split chunk diagonal tril triu __getitem__ ListUnpack TupleUnpack TupleIndex "
        "TupleSlice pop",
        "concat": "cat stack",
        "add": "add sub rsub addcmul addcdiv lerp neg",
        "scale": "mul div true_divide",
        "reduce": "mean sum norm linalg_vector_norm logsumexp prod cumsum std var var_mean std_mean "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d cumprod",
        "order": "amax amin max min topk sort median scatter scatter_add index_put index_add copy",
        "step": "eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or "
        "bitwise_not __and__ __or__ __xor__ __not__ sign sgn floor ceil round trunc frac fmod "
        "remainder floor_divide floordiv argmax argmin nonzero isnan isinf isfinite isclose all any "
        "one_hot maximum minimum threshold hardshrink nan_to_num",
        "choose": "where masked_fill masked_scatter masked_select",
        "random": "rand bernoulli uniform",
        "shape": "size dim numel len is_floating_point dtype device requires_grad is_nested __is__ __isnot__ "
        "__contains__ isinstance zeros_like ones_like new_zeros new_empty",
        "pointwise": "relu relu6 leaky_relu prelu elu selu celu sigmoid hardsigmoid hardswish hardtanh tanh erf "
        "exp log sqrt rsqrt pow abs reciprocal softplus gelu mish silu clamp clamp_min clamp_max "
        "batch_norm square sin cos log_sigmoid exp2 log2 log10 log1p expm1 acos acosh asin "
        "asinh atan atanh cosh sinh tan erfc logit sinc softshrink",
    }
)
#: Tensors and fractions that only decide which values go on, or how many, by the names that schemas give them.
_DECIDING = frozenset(
    {
        "condition", "index", "indices", "mask", "repeats", "start", "tensor_indices_or_sections", "scale_factors",
        "scales", "scales_d", "scales_h", "scales_w",
    }
)  # fmt: skip
#: Codes of dtypes (``c10::ScalarType``): floats of less than 32 bits, other floats and complex numbers; the rest are
#: whole numbers.
_HALF_CODES = frozenset({5, 15, 23, 24, 25, 26, 44, 45})
_REAL_CODES = _HALF_CODES | {6, 7, 8, 9, 10}
#: What changes or runs something that the graph does not show.
_HIDDEN = frozenset(
    {"prim::SetAttr", "prim::CallMethod", "prim::CallFunction", "prim::PythonOp", "prim::fork"}
)
_NUMBERS = frozenset({"IntType", "FloatType", "BoolType", "NumberType", "ComplexType", "StringType"})


def trace(source: Source, manifest: Manifest) -> Dataflow:
    """The dataflow of a checked file. Raises ``Unsupported`` for what torch cannot load and for networks that keep
    state or take more than images."""
    module = lift.load(source.data)
    try:
        graph, stored = lift.inlined(module)
        return _dataflow(module, graph, stored, manifest)
    except AttributeError as error:
        raise Unsupported(f"torch {torch.__version__} lacks a call that this needs ({error}).") from error


def _dataflow(module: Any, graph: Any, stored: Mapping[int, lift.Argument], manifest: Manifest) -> Dataflow:
    inputs = list(graph.inputs())
    tracer = _Tracer(_wide(inputs, stored), stored)
    for value in inputs:
        held = stored.get(value.unique())
        tracer.known[value.unique()] = tracer.constant(
            held.name or "" if held else value.debugName(), held.value if held else None
        )
    image = inputs[1]
    tracer.known[image.unique()] = tracer.add("input", "input", place=image.debugName())
    tracer.block(graph)
    outputs = [tracer.known[value.unique()] for value in graph.outputs()]
    places = {
        tracer.made[value.unique()]: (i, j)
        for i, node in enumerate(graph.nodes())
        for j, value in enumerate(node.outputs())
        if value.unique() in tracer.made
    }

    def prefix(node: int) -> Callable[[Tensor], Tensor]:
        if node not in places:
            raise Unsupported("The value lies inside a branch.")
        part = graph.copy()
        for _ in list(part.outputs()):
            part.eraseOutput(0)
        at, which = places[node]
        *_, last = nodes = list(part.nodes())[: at + 1]
        for later in reversed(list(part.nodes())[len(nodes) :]):  # one of them may write into the value
            later.destroy()
        part.registerOutput(list(last.outputs())[which])
        torch._C._jit_pass_dce(part)
        function = torch._C._create_function_from_graph("prefix", part)
        rest = [stored[one.unique()].value if one.unique() in stored else None for one in inputs[2:]]

        def run(images: Tensor) -> Tensor:
            with lift.plain_execution():
                arguments = [images.device if one is None else one for one in rest]
                return torch.as_tensor(function(module, images, *arguments)).float()

        return run

    return Dataflow(
        tuple(tracer.nodes), outputs[0], example_shape(manifest) or (None,) * 4, prefix, tuple(tracer.notes)
    )


def _wide(inputs: Sequence[Any], stored: Mapping[int, lift.Argument]) -> bool:
    """Whether half precision is not what the operands of weighted layers are in; of all tensors, without such."""
    held = [(one, stored[one.unique()].value) for one in inputs if one.unique() in stored]
    floats = [(one, value) for one, value in held if isinstance(value, Tensor) and value.is_floating_point()]
    weights = [value for one, value in floats if any(map(_is_weighted, one.uses()))]
    counted = weights or [value for _, value in floats]
    narrow = sum(value.numel() for value in counted if value.dtype.itemsize < 4)
    return 2 * narrow <= sum(value.numel() for value in counted)


def _is_weighted(use: Any) -> bool:
    return ROLES.get(use.user.kind().rpartition("::")[2].rstrip("_")) == "linear"


@cache
def _schema(text: str) -> Any:
    return torch._C.parse_schema(text)


class _Tracer(Builder):
    """Values of the graph, by number, → numbers of nodes: ``made`` by what computes them, ``known`` by what they hold
    at the moment. ``kin``: a value → all that may share its memory, itself included; ``sure``: without what shares it
    or not by how the network is run. ``tensors``
    and ``containers``: what the network still holds when it is asked again; a list of tensors is of both."""

    def __init__(self, wide: bool, stored: Iterable[int]) -> None:
        """``wide``: half precision is not what the file is in. ``stored``: values that are tensors of the file."""
        super().__init__()
        self.wide = wide
        self.tensors = {*stored}
        self.containers: set[int] = set()
        self.halves: set[int] = set()
        self.known: ChainMap[int, int] = ChainMap()
        self.made: dict[int, int] = {}
        self.kin: dict[int, set[int]] = {}
        self.sure: dict[int, set[int]] = {}
        self.parts: dict[int, list[int]] = {}
        self.notes: list[str] = []
        #: Nodes that hold no whole numbers by their type, and such types.
        self.real: set[int] = set()

    def add(
        self, operator: str, role: Role, data: Sequence[int] = (), control: Sequence[int] = (), **details: Any
    ) -> int:
        number = super().add(operator, role, data, control, **details)
        real = [one in self.real for one in data]
        if operator in ("prim::If", "prim::Loop") or operator.endswith("Construct"):
            known = bool(real) and all(real)
        elif operator in ("written", PERHAPS) or operator.endswith("_"):
            known = real[:1] == [True]
        else:
            known = role in ("input", "random") or (role != "step" and any(real))
        if known or operator == "prim::Uninitialized":
            self.real.add(number)
        return number

    def constant(self, name: str, value: object = None) -> int:
        """A stored tensor or number."""
        values = None
        if (
            isinstance(value, Tensor)
            and value.numel() <= SMALL
            and not value.is_quantized
            and not value.is_complex()
        ):
            values = value.detach().double().numpy()
        elif isinstance(value, bool | int | float):
            values = np.array(value, dtype=np.float64)
        number = self.add("stored", "stored", place=name, values=values)
        whole = isinstance(value, int) or (
            isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
        )
        if not whole:
            self.real.add(number)
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < 4:
            self.halves.add(number)
        return number

    def block(self, block: Any) -> None:
        for node in block.nodes():
            kind = node.kind()
            if kind == "prim::Constant":
                value = node.output()
                self.known[value.unique()] = self.constant(value.debugName(), value.toIValue())
                if _tensor(value.type()):
                    self.tensors.add(value.unique())
                if value.type().kind() in _CONTAINERS:
                    self.containers.add(value.unique())
            elif kind == "prim::If":
                self.condition(node)
            elif kind == "prim::Loop":
                self.loop(node)
            else:
                self.operator(node)

    def operator(self, node: Any) -> None:
        if node.kind() in _HIDDEN or node.hasAttribute("Subgraph"):
            raise Unsupported(
                f"The network keeps state or runs code that is not in its graph ({node.kind()})."
            )
        name = node.kind().rpartition("::")[2]
        if name.endswith("_") and not name.endswith("__"):
            name = name[:-1]
        inputs, outputs = list(node.inputs()), list(node.outputs())
        if name in ("TupleUnpack", "ListUnpack") and len(self.parts.get(inputs[0].unique(), ())) == len(
            outputs
        ):
            for value, part in zip(outputs, self.parts[inputs[0].unique()], strict=True):
                self.known[value.unique()] = self.known[part]
                self.relate(value.unique(), part)
            return
        text = node.schema()
        arguments = _schema(text).arguments if "->" in text else []
        role, data, control = self.described(name, node, inputs, arguments)
        names = [argument.name for argument in arguments]
        place, spans, values = self.place(node), None, None
        operator = node.kind()
        if self.wide and self.to_half([self.known[value.unique()] for value in inputs], names, name):
            operator += "ToHalf"
        if name == "size" and len(inputs) == 2:
            held, axis = self.values(data[0]), self.number(self.known[inputs[1].unique()])
            values = None if held is None or axis is None else np.array(held.shape[axis], dtype=np.float64)
        elif names[1:2] == ["dim"]:
            spans = self.spans(name, inputs)
        elif names[1:2] == ["pad"] and (spans := self.crop(inputs[1])):
            role = "pick"
        settings = self.settings(inputs, names)
        for i, value in enumerate(outputs):
            number = self.add(
                operator, role, data, control, place=place, spans=spans, values=values, settings=settings
            )
            kind = "places" if i and name in _PLACES else value.type().kind()
            self.judge(number, name, kind, self.cast(name, inputs, names))
            self.known[value.unique()] = self.made[value.unique()] = number
        if name.endswith("Construct"):
            self.parts[outputs[0].unique()] = [value.unique() for value in inputs]
        written = -1
        if not outputs and any(one.alias_info and one.alias_info.is_write for one in arguments):
            written = self.add(node.kind(), role, data, control, place=place)  # into a list or a dictionary
        self.share(inputs, outputs, arguments, name, role, written)

    def described(
        self, name: str, node: Any, inputs: Sequence[Any], arguments: Sequence[Any]
    ) -> tuple[Role, list[int], list[int]]:
        """Role, data and control of an operator that has no blocks."""
        read = [self.known[value.unique()] for value in inputs]
        tensors = any(_tensor(value.type()) for value in [*inputs, *node.outputs()])
        data: list[int] = []
        control: list[int] = []
        for i, value in enumerate(inputs):
            named = arguments[i].name if i < len(arguments) else ""
            only = (
                tensors
                and bool(arguments)
                and not _tensor(value.type())
                and _leaf(value.type()) not in _CONTINUOUS
                and name != "clamp"  # which of its bounds is which
            )
            (control if named in _DECIDING or only else data).append(read[i])
        role: Role = ROLES.get(name, "other")
        named = {argument.name: read[i] for i, argument in enumerate(arguments) if i < len(read)}
        numbers = bool(outputs := list(node.outputs())) and all(
            _leaf(one.type()) in _NUMBERS for one in outputs
        )
        if name in ("full_like", "new_full"):
            data = [named["fill_value"]]
            control.append(self.add("aten::size", "shape", [named["self"]]))
        elif role in ("order", "step") and name in ("max", "min"):
            role = "step" if "other" in named else "order"
        elif ("rounding_mode" in named and inputs[-1].toIValue() is not None) or (
            role != "shape" and name != "arange" and self.cast(name, inputs, list(named))
        ):
            role = "step"
        elif name == "__contains__" or (name == "len" and not _tensor(inputs[0].type())):
            role = "step"  # of numbers and texts, which may be made of what is in the image
        elif role != "shape" and numbers and any(_tensor(value.type()) for value in inputs):
            role = "scalar"
        return role, data, control

    def cast(self, name: str, inputs: Sequence[Any], names: Sequence[str]) -> bool | None:
        """Whether an operator makes whole numbers by the type that it is told, or by an example; ``None`` without."""
        given = {
            named: self.known[value.unique()]
            for named, value in zip(names, inputs, strict=False)
            if value.type().kind() != "NoneType"
        }
        if "dtype" in given:
            code = self.number(given["dtype"])
            return given["dtype"] not in self.real if code is None else code not in _REAL_CODES
        example = given.get(
            "other" if name in ("to", "type_as") else "self" if name in ("copy", "fill") else ""
        )
        return None if example is None else example not in self.real

    def judge(self, number: int, name: str, kind: str, whole: bool | None) -> None:
        """Whether what an operator makes is :attr:`real`, where that does not follow from its operands."""
        if (
            kind in ("BoolType", "places")
            or (kind == "IntType" and name != "dtype")
            or whole
            or name in _WHOLE
        ):
            self.real.discard(number)
        elif whole is False or kind == "FloatType" or name in _FLOATS:
            self.real.add(number)

    def to_half(self, read: Sequence[int], names: Sequence[str], name: str) -> bool:
        """Whether an operator casts to half precision, as a stored tensor has it or as a number says."""
        said = dict(zip(names, read, strict=False))
        dtype, other = said.get("dtype"), said.get("other") if name in ("to", "type_as") else None
        if dtype is not None and self.nodes[dtype].operator == "prim::dtype":
            other = self.nodes[dtype].inputs[0]
        return other in self.halves or (dtype is not None and self.number(dtype) in _HALF_CODES)

    def place(self, node: Any) -> str:
        """Name of the layer, where the file tells it."""
        return str(node.scopeName()).rpartition("/")[2] or (
            node.outputsAt(0).debugName() if node.outputsSize() else ""
        )

    def spans(self, name: str, inputs: Sequence[Any]) -> tuple[Span, ...] | None:
        """What a pick takes, where that is constant."""
        if name not in ("slice", "select", "narrow"):
            return None
        axis, start, *rest = (self.number(self.known[value.unique()]) for value in inputs[1:])
        nothing = [value.type().kind() == "NoneType" for value in inputs[1:]]
        if axis is None or (start is None and not nothing[1]) or (rest[:1] == [None] and not nothing[2]):
            return None
        if name == "slice":
            stop, step = rest
            return (Span(axis, start or 0, None if stop is None or stop > 1 << 60 else stop, step or 1),)
        stop = (start or 0) + ((rest[0] or 0) if name == "narrow" else 1)
        return (Span(axis, start or 0, stop or None),)

    def settings(self, inputs: Sequence[Any], names: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """Arguments that are numbers, or lists of few."""
        found = {}
        for value, named in zip(inputs, names, strict=False):
            given: Any = value.toIValue() if value.node().kind() == "prim::Constant" else None
            if not isinstance(given, list | tuple):
                parts = self.parts.get(value.unique(), [value.unique()])[: MOST_SETTINGS + 1]
                held = [] if _tensor(value.type()) else [self.values(self.known[part]) for part in parts]
                given = [one.item() for one in held if one is not None and one.size == 1]
                if len(given) != len(held):
                    continue
            if 0 < len(given) <= MOST_SETTINGS and all(isinstance(one, int | float) for one in given):
                found[named] = tuple(map(float, given))
        return found

    def crop(self, pads: Any) -> tuple[Span, ...]:
        """What pads of less than nothing take; their list begins with the last axis."""
        if pads.node().kind() == "prim::Constant":
            given = pads.toIValue()
        else:
            given = [self.number(self.known[part]) or 0 for part in self.parts.get(pads.unique(), ())]
        pairs = enumerate(zip(given[::2], given[1::2], strict=False))
        return tuple(cropped(-1 - i, *pair) for i, pair in pairs if min(pair) < 0)

    def relate(self, one: int, other: int, sure: bool = True) -> None:
        """The two may share memory from here on; where not ``sure``, how the network is run says whether."""
        for kin in (self.kin, self.sure) if sure else (self.kin,):
            small, large = sorted((kin.setdefault(n, {n}) for n in (one, other)), key=len)
            if small is not large:
                large |= small
                kin.update(dict.fromkeys(small, large))

    def share(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        arguments: Sequence[Any],
        name: str,
        role: Role,
        written: int,
    ) -> None:
        """Views and containers are related to what they show; what is written to changes with all that is related.
        A schema does not say of every operator that it may give back what it was given: what is not known to make
        memory of its own is taken to. ``written``: the number of what is written where nothing comes out."""
        if name in _COPIES and outputs and all(_is_numbers(output.type()) for output in outputs):
            return
        lists = any(output.type().kind() == "ListType" for output in outputs)
        if (
            name in _GIVES_BACK
            or lists
            or (role in ("view", "pick", "other", "scalar") and name not in _MAKES)
        ):
            first = 1 if role in ("view", "pick") and not lists else len(inputs)
            for value in inputs[:first]:
                for output in outputs:
                    if _holds(value.type()) and _holds(output.type()):
                        self.relate(value.unique(), output.unique(), name not in _PERHAPS)
        for value, argument in zip(inputs, arguments, strict=False):
            about = argument.alias_info
            if about is None:
                continue
            for output in outputs:
                self.relate(value.unique(), output.unique(), name not in _PERHAPS)
            if about.is_write:
                self.keep(value, name)
                self.write(value.unique(), self.known[outputs[0].unique()] if outputs else written)
        if not arguments and name not in _WITHOUT_MEMORY:
            for value in inputs:
                for output in outputs:
                    self.relate(value.unique(), output.unique())
        if name in ("append", "insert", "extend", "_set_item"):
            for value in inputs[1:]:
                self.relate(inputs[0].unique(), value.unique())

    def keep(self, target: Any, name: str) -> None:
        """Refuses to let an operator write into what is still there when the network is asked again."""
        held = self.containers if target.type().kind() in _CONTAINERS else self.tensors
        if not held.isdisjoint(self.kin.get(target.unique(), {target.unique()})):
            raise Stateful(
                f"The network keeps state: it writes into what it stores ({name}), so that its answers may depend on "
                "what it was asked before."
            )

    def write(self, target: int, number: int) -> None:
        self.parts.pop(target, None)
        for member in self.kin.get(target, {target}):
            self.parts.pop(member, None)
            old = self.known.get(member)
            if member == target or old is None or old == number:
                self.known[member] = number
            else:
                how = "written" if member in self.sure.get(target, {target}) else PERHAPS
                self.known[member] = self.add(how, "view", [old, number])

    def condition(self, node: Any) -> None:
        chosen, before, after = self.known[node.inputsAt(0).unique()], self.known, []
        for block in node.blocks():
            self.known = before.new_child()
            self.block(block)
            after.append(self.known)
        self.known = before
        for member in {member for known in after for member in known.maps[0] if member in before}:
            versions = [known[member] for known in after]
            self.known[member] = self.add(node.kind(), "choose", versions, [chosen], place=self.place(node))
        for i, value in enumerate(node.outputs()):
            results = [list(block.outputs())[i].unique() for block in node.blocks()]
            data = [known[result] for known, result in zip(after, results, strict=True)]
            number = self.add(node.kind(), "choose", data, [chosen], place=self.place(node))
            self.known[value.unique()] = self.made[value.unique()] = number
            one = len({id(self.sure.get(result, result)) for result in results}) == 1
            for result in results:
                self.relate(value.unique(), result, sure=one)

    def loop(self, node: Any) -> None:
        """What a round makes is also what the next one reads; two rounds show what writes carry over."""
        inputs, body = list(node.inputs()), next(node.blocks())
        control = [self.known[value.unique()] for value in inputs[:2]]
        entering, leaving = list(body.inputs()), list(body.outputs())
        before, self.known = self.known, self.known.new_child()
        self.known[entering[0].unique()] = self.add("round", "shape", control=control[:1])
        carried = []
        for value, inner in zip(inputs[2:], entering[1:], strict=True):
            carried.append(
                self.add(node.kind(), "choose", [self.known[value.unique()]], control, place=self.place(node))
            )
            self.known[inner.unique()] = carried[-1]
            self.relate(value.unique(), inner.unique())
        for _ in range(2):
            self.block(body)
            results = [self.known[value.unique()] for value in leaving]
            if any(a in self.real and b not in self.real for a, b in zip(carried, results[1:], strict=True)):
                self.real.difference_update(carried)
            for number, result in zip(carried, results[1:], strict=True):
                old = self.nodes[number]
                self.nodes[number] = replace(
                    old, data=(*old.data, result), control=tuple({*old.control, results[0]})
                )
        after, self.known = self.known, before
        for member in [member for member in after.maps[0] if member in before]:
            versions = [before[member], after[member]]
            self.known[member] = self.add(node.kind(), "choose", versions, control, place=self.place(node))
        for value, number, first, result in zip(
            node.outputs(), carried, inputs[2:], leaving[1:], strict=True
        ):
            self.known[value.unique()] = self.made[value.unique()] = number
            for other in (first, result):  # the first, after no round
                self.relate(value.unique(), other.unique(), sure=False)


#: Operators that give back the operand or a copy, by its dtype, its device or its layout in memory.
_PERHAPS = frozenset({"to", "type_as", "contiguous", "reshape", "reshape_as", "flatten", "unflatten"})
#: Operators whose result can be an operand itself, unlike that of others of their role.
_GIVES_BACK = frozenset({"einsum"})
#: Operators of no role of their own whose results share no memory with their operands.
_MAKES = frozenset(
    {
        "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
        "softmax", "log_softmax", "_softmax", "_log_softmax", "layer_norm", "native_layer_norm", "group_norm",
        "instance_norm", "rms_norm", "scaled_dot_product_attention", "upsample_nearest2d", "upsample_bilinear2d",
        "upsample_bicubic2d", "_upsample_bilinear2d_aa", "grid_sampler", "affine_grid_generator", "glu", "cdist",
        "local_response_norm", "repeat", "tile", "clone", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
        "replication_pad1d", "replication_pad2d", "pixel_shuffle", "pixel_unshuffle", "roll", "flip", "im2col",
        "gather", "index_select", "take_along_dim", "tensor", "NumToTensor", "fill",
    }
)  # fmt: skip
#: Operators that make another list; one of numbers shares no memory.
_COPIES = frozenset({"copy", "list", "slice", "add", "mul"})
#: Operators that make whole numbers of any, that make others of none, and whose second results are places.
_WHOLE = frozenset({"size", "argmax", "argmin", "argsort", "nonzero", "one_hot", "searchsorted", "bucketize"})
_FLOATS = frozenset({"zeros", "ones", "empty", "linspace", "eye"})
_PLACES = frozenset(
    {
        "max", "min", "median", "mode", "topk", "sort", "kthvalue", "cummax", "cummin", "max_pool1d_with_indices",
        "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d",
    }
)  # fmt: skip
#: Operators without a schema whose results share no memory with their operands.
_WITHOUT_MEMORY = frozenset({"RaiseException", "Print", "device", "dtype", "shape"})
_CONTINUOUS = frozenset({"FloatType", "NumberType", "ComplexType"})
_CONTAINERS = ("ListType", "DictType")


def _leaf(kind: Any) -> str:
    """Kind of a type inside optional and list."""
    while kind.kind() in ("OptionalType", "ListType"):
        kind = kind.getElementType()
    found: str = kind.kind()
    return found


def _is_numbers(kind: Any) -> bool:
    """Whether a type is a list of numbers."""
    return bool(kind.kind() == "ListType" and kind.getElementType().kind() in _NUMBERS)


def _holds(kind: Any) -> bool:
    """Whether a type may be, or hold, memory that can be written to."""
    return _tensor(kind) or kind.kind() in (*_CONTAINERS, "ClassType")


def _tensor(kind: Any) -> bool:
    """Whether a type may hold tensors."""
    return _leaf(kind) in ("TensorType", "TupleType", "DictType", "VarType", "AnyType", "UnionType")
