"""A loaded TorchScript module → one function whose tensors are its arguments. All private calls.

The graph of ``forward`` is inlined; every attribute chain that ends in a tensor, every tensor constant and
every device becomes an argument; ``training`` becomes False. Fused attention, which has no derivative, is
written out. Torch 2.10 to 2.15 offer the calls; where one is gone, :class:`Unsupported` says so.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from formats.errors import Unsupported
from formats.torchscript.central import find_directory
from formats.torchscript.state import CONTAINERS, nodes_of, refuse_state

#: Codes of ``c10::ScalarType`` as they stand in graphs.
_FLOAT = 6
_CODES = {torch.float16: 5, torch.bfloat16: 15, torch.float64: 7}

#: Operators through which an image passes without meeting a weight (normalisation of the input).
_ELEMENTWISE = frozenset(
    f"aten::{name}"
    for name in (
        "sub", "sub_", "add", "add_", "mul", "mul_", "div", "div_", "to", "contiguous", "clone", "clamp",
        "flip", "permute", "unsqueeze", "cat", "select", "slice",
    )
)  # fmt: skip
_CONVOLUTIONS = frozenset(
    {"aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::_convolution", "aten::convolution"}
)
_NORMS = frozenset({"aten::batch_norm", "aten::instance_norm", "aten::native_batch_norm"})
#: What makes a tensor without values, what writes all of one, and what asks only for its size or kind.
_UNWRITTEN = frozenset(
    f"aten::{name}"
    for name in ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted")
)
_FILLING = frozenset(f"aten::{name}_" for name in ("bernoulli", "uniform", "normal", "fill", "zero", "copy"))
_SIZES = frozenset(
    {"aten::size", "aten::dim", "aten::numel", "aten::len", "prim::dtype", "prim::device", "prim::is_nested"}
)

#: Self-attention and one encoder layer of torch.nn, written in operators that have derivatives; and a cast that rounds
#: to half precision and overflows, but not its gradient, which would vanish.
_WRITTEN_OUT = """
def attend(x: Tensor, e: int, h: int, qkv_w: Tensor, qkv_b: Tensor, out_w: Tensor, out_b: Tensor) -> Tensor:
    n, l = x.size(0), x.size(1)
    qkv = torch._C._nn.linear(x, qkv_w, qkv_b).reshape([n, l, 3, h, e // h]).permute([2, 0, 3, 1, 4])
    y = torch._C._nn.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
    return torch._C._nn.linear(y.transpose(1, 2).reshape([n, l, e]), out_w, out_b)

def encode(
    x: Tensor, e: int, h: int, qkv_w: Tensor, qkv_b: Tensor, out_w: Tensor, out_b: Tensor, gelu: bool,
    first: bool, eps: float, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    up_w: Tensor, up_b: Tensor, down_w: Tensor, down_b: Tensor,
) -> Tensor:
    y = torch.layer_norm(x, [e], w1, b1, eps) if first else x
    x = x + attend(y, e, h, qkv_w, qkv_b, out_w, out_b)
    if not first:
        x = torch.layer_norm(x, [e], w1, b1, eps)
    y = torch.layer_norm(x, [e], w2, b2, eps) if first else x
    y = torch._C._nn.linear(y, up_w, up_b)
    y = torch._C._nn.gelu(y) if gelu else torch.relu(y)
    x = x + torch._C._nn.linear(y, down_w, down_b)
    return x if first else torch.layer_norm(x, [e], w2, b2, eps)

def rounded(x: Tensor, dtype: int) -> Tensor:
    y = x.detach().to(dtype).to(x.dtype)
    return torch.where(torch.isfinite(y), x + (y - x.detach()), y)
"""
#: Fused operator → the function above, which of its inputs that takes, and which must be None.
_FUSED: dict[str, tuple[str, tuple[int, ...], int]] = {
    "aten::_native_multi_head_attention": ("attend", (0, 3, 4, 5, 6, 7, 8), 9),
    "aten::_transformer_encoder_layer_fwd": ("encode", tuple(range(18)), 18),
}


@dataclass(frozen=True)
class Argument:
    """A tensor that the function takes.

    ``name``: attribute path or ``None``. ``value``: as loaded. ``constant``: it stood in the graph itself.
    ``statistic``: batch-norm mean or variance. ``image``: meets the image before any weight (normalising).
    """

    name: str | None
    value: torch.Tensor
    constant: bool
    statistic: bool = False
    image: bool = False


@dataclass(frozen=True)
class Lifted:
    """``function(x, device, *tensors)`` gives what ``forward`` gives.

    ``channels``: those of the image, where the first layer tells. ``returns``: kind of the result's type.
    ``module``: kept alive, since torch follows pointers into its code when the function fails.
    """

    module: Any
    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    channels: int | None
    returns: str

    def __deepcopy__(self, memo: dict[int, Any]) -> Lifted:
        return self


def load(data: bytes) -> Any:
    """``torch.jit.load`` on the CPU, in eval mode, without its deprecation warning.

    The pickles that map code to its source stay unread: nobody has checked them, and torch reads them for messages.

    Raises Unsupported when torch cannot load the archive.
    """
    _, directory, _ = find_directory(data)
    data = data[:directory] + data[directory:].replace(b".py.debug_pkl", b".py.unread_pk")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.*")
        try:
            module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        except MemoryError:
            raise
        except Exception as error:  # whatever torch meets in the file, each in its own words
            raise Unsupported(
                f"torch {torch.__version__} cannot load this TorchScript file: {reason(error)}"
            ) from error
    return module


def reason(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def plain_execution() -> Any:
    """Run graphs as they stand: no fusion, so that autograd sees the operators of the file."""
    return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]


def lift(module: Any, narrow: Sequence[torch.dtype] = ()) -> Lifted:
    """Turn ``forward`` of a loaded module into a function of its tensors.

    ``narrow``: dtypes of the file that are computed in float32; casts to them become casts to float32, whose results
    are rounded where the dtype is a half one.

    Raises Unsupported for networks that keep state, take several inputs, were saved in training mode, or use
    operators without a derivative.
    """
    try:
        graph = module.inlined_graph
        _resolve_defaults(graph, module)
        named = _lift_attributes(graph, module)
        loose = _lift_constants(graph)
        _simplify(graph)
        own = _drop_self(graph)
        _refuse_training(graph)
        _refuse_unwritten(graph)
        _write_out_attention(graph)
        for dtype in narrow:
            _widen(graph, dtype)
        _simplify(graph)
        arguments = _prune(graph, {**named, **loose}, len(own))
        channels = _first_channels(graph, arguments)
        function = partial(torch._C._create_function_from_graph("forward", graph), *own and [module])
    except AttributeError as error:
        raise Unsupported(
            f"torch {torch.__version__} lacks a call that this file needs ({error}); use torch 2.10 to 2.15."
        ) from error
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise Unsupported(f"The network cannot be made differentiable: {reason(error)}") from error
    return Lifted(module, function, tuple(arguments.values()), channels, next(graph.outputs()).type().kind())


def inlined(module: Any) -> tuple[Any, dict[int, Argument]]:
    """The graph of ``forward`` with nothing called and no attribute read, and its stored tensors by their values.

    Its inputs: the module, the images, the device, the tensors. Raises Unsupported as :func:`lift`.
    """
    graph = module.inlined_graph
    _resolve_defaults(graph, module)
    named = _lift_attributes(graph, module)
    _simplify(graph)
    _refuse_unwritten(graph)
    return graph, named


def _constant(graph: Any, before: Any, value: Any) -> Any:
    with graph.insert_point_guard(before):
        return graph.insertConstant(value)


def _tensor_input(graph: Any) -> Any:
    value = graph.addInput()
    value.setType(torch._C.TensorType.get())
    return value


def _resolve_defaults(graph: Any, module: Any) -> None:
    """Only the image is an input: others take their defaults."""
    schema = module._c._get_method("forward").schema.arguments
    inputs = list(graph.inputs())
    if len(inputs) < 2:
        raise Unsupported("The network takes no input.")
    for index in range(len(inputs) - 1, 1, -1):
        if not schema[index].has_default_value():
            raise Unsupported(
                f"The network takes a second input, {schema[index].name!r}; one image is expected."
            )
        if inputs[index].type().kind() in CONTAINERS - {"OptionalType"}:
            raise Unsupported(
                f"The network takes a second input, {schema[index].name!r}, a list, tuple or dictionary; one image is "
                "expected."
            )
        first = next(graph.nodes())
        inputs[index].replaceAllUsesWith(_constant(graph, first, schema[index].default_value))
        graph.eraseInput(index)
    device = graph.addInput("device")
    device.setType(torch._C.DeviceObjType.get())


def _lift_attributes(graph: Any, module: Any) -> dict[int, Argument]:
    """Replace attribute chains by arguments (tensors) or constants (all else), keyed by the new value.

    Raises Stateful where the network writes into one."""
    paths: dict[int, tuple[str, Any]] = {next(graph.inputs()).unique(): ("", module._c)}
    named: dict[int, Argument] = {}
    by_path: dict[str, Any] = {}
    held: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    done = []
    for node in nodes_of(graph):
        if node.kind() != "prim::GetAttr" or node.inputsAt(0).unique() not in paths:
            continue
        base, owner = paths[node.inputsAt(0).unique()]
        attribute = node.s("name")
        if node.output().type().kind() == "EnumType":
            continue
        path = f"{base}.{attribute}" if base else attribute
        try:
            value = False if attribute == "training" else owner.getattr(attribute)
        except RuntimeError as error:  # torch makes no Python objects of classes that Python does not know
            raise _foreign(node, path) from error
        if isinstance(value, torch.Tensor):
            if path not in by_path:
                by_path[path] = _tensor_input(graph)
                named[by_path[path].unique()] = Argument(path, value, constant=False)
            node.output().replaceAllUsesWith(by_path[path])
        elif isinstance(value, torch._C.ScriptModule | torch._C.ScriptObject):
            paths[node.output().unique()] = (path, value)
        elif node.output().type().kind() == "ClassType":
            raise _foreign(node, path)
        elif node.output().type().kind() in CONTAINERS:
            if path not in held:
                held[path] = graph.addInput()
                held[path].setType(node.output().type())
            node.output().replaceAllUsesWith(held[path])
            plain[path] = value
        else:
            node.output().replaceAllUsesWith(_plain(graph, node, path, value, node.output().type()))
        done.append(node)
    for node in reversed(done):
        if not node.hasUses():
            node.destroy()
    _refuse_state(graph, named, [(path, plain[path], value) for path, value in held.items()])
    return named


def _refuse_state(graph: Any, named: Mapping[int, Argument], held: list[tuple[str, Any, Any]]) -> None:
    """Asks it of the tensors ``named``, of constant tensors, and of the containers ``held`` (path, what it is, the
    argument that stands for it), which become constants. All are arguments meanwhile: what is written into a constant
    and not read again would be dropped as useless."""
    for node in nodes_of(graph):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            argument = _tensor_input(graph)
            held.append(("", node.t("value"), argument))
            node.output().replaceAllUsesWith(argument)
    _fold(graph)
    _refuse_training(graph)
    numbers = {argument.unique() for _, _, argument in held}
    refuse_state(graph, numbers | {*named})
    first = next(graph.nodes())
    for path, value, argument in held:
        argument.replaceAllUsesWith(_plain(graph, first, path, value, argument.type()))
    for index, argument in reversed([*enumerate(graph.inputs())]):
        if argument.unique() in numbers:
            graph.eraseInput(index)


def _foreign(node: Any, path: str) -> Unsupported:
    return Unsupported(
        f"The network keeps an object of a class of its own that is no module ({path[:200]!r}: "
        f"{str(node.output().type())[:200]}); freeze it (torch.jit.freeze) and save it again."
    )


def _plain(graph: Any, node: Any, path: str, value: Any, kind: Any) -> Any:
    """A constant for an attribute that is no tensor; an empty container of tensors keeps its type."""
    try:
        constant = _constant(graph, node, value)
    except (RuntimeError, TypeError) as error:
        raise Unsupported(f"Attribute {path!r} of the network cannot be made a constant.") from error
    constant.setType(kind)
    return constant


def _lift_constants(graph: Any) -> dict[int, Argument]:
    """Make arguments of tensor constants and devices. Integer scalars stay: they only size other tensors."""
    device = next(v for v in graph.inputs() if str(v.type()) == "Device")
    loose: dict[int, Argument] = {}
    for node in nodes_of(graph):
        if node.kind() != "prim::Constant" or not node.hasAttribute("value"):
            continue
        kind = node.kindOf("value")
        output = node.output()
        if kind == "t":
            tensor = node.t("value")
            if tensor.dim() == 0 and not tensor.is_floating_point():
                continue
            argument = _tensor_input(graph)
            loose[argument.unique()] = Argument(None, tensor, constant=True)
            output.replaceAllUsesWith(argument)
        elif str(output.type()) == "Device":
            output.replaceAllUsesWith(device)
    return loose


def _simplify(graph: Any) -> None:
    """Fold what constants decide (not tensors), remove what is unused."""
    for _ in range(2):
        _fold(graph)
        torch._C._jit_pass_dce(graph)


def _fold(graph: Any) -> None:
    torch._C._jit_pass_constant_propagation_immutable_types(graph)  # type: ignore[attr-defined]
    torch._C._jit_pass_peephole(graph)


def _drop_self(graph: Any) -> list[Any]:
    """Erase the module from the inputs, unless enumerations are read from it: they exist nowhere else."""
    own = next(graph.inputs())
    pending, kinds = [own], set()
    while pending:
        for user in (use.user for use in pending.pop().uses()):
            if user.kind() == "prim::GetAttr":
                pending.extend([] if user.output().type().kind() == "EnumType" else [user.output()])
            else:
                kinds.add(user.kind())
    if kinds:
        raise Unsupported(
            f"The network uses its own state in an unsupported way ({', '.join(sorted(kinds))}); trace it instead."
        )
    if own.uses():
        return [own]
    graph.eraseInput(0)
    return []


def _truth(value: Any) -> Any:
    return value.toIValue() if value.node().kind() == "prim::Constant" else None


def _refuse_training(graph: Any) -> None:
    for node in nodes_of(graph):
        names = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::dropout_": 2, "aten::feature_dropout": 2}
        at = names.get(node.kind())
        if at is None or _truth(node.inputsAt(at)) is not True:
            continue
        if node.kind() != "aten::batch_norm":
            if _truth(node.inputsAt(1)) == 0.0:
                continue
        elif str(node.inputsAt(3).type()) == "NoneType":
            continue
        raise Unsupported(
            f"The network was traced in training mode ({node.kind()}); trace it after model.eval()."
        )


def _refuse_unwritten(block: Any) -> None:
    """A tensor made without values is written whole before anything reads it: what lay in the memory may be the image.

    Raises Unsupported where that is not seen in the same block, first of all that is done with it.
    """
    nodes = list(block.nodes())
    for i, node in enumerate(nodes):
        for inner in node.blocks():
            _refuse_unwritten(inner)
        if node.kind() not in _UNWRITTEN:
            continue
        value = node.output().unique()
        first = next((one for one in nodes[i + 1 :] if one.kind() not in _SIZES and _reads(one, value)), None)
        if first is None and value not in {one.unique() for one in block.outputs()}:
            continue
        if first is None or not _fills(first, value):
            raise Unsupported(
                f"The network may read a tensor that nothing was written to ({node.kind()}): what it computes then "
                "depends on what lay in the memory before."
            )


def _reads(node: Any, value: int) -> bool:
    """Whether a node, or what is inside it, uses a value."""
    used = [*node.inputs(), *(one for block in node.blocks() for one in block.outputs())]
    return value in {one.unique() for one in used} or any(
        _reads(inner, value) for block in node.blocks() for inner in block.nodes()
    )


def _fills(node: Any, value: int) -> bool:
    """Whether a node writes all of a tensor and reads nothing of it."""
    inputs = [one.unique() for one in node.inputs()]
    return node.kind() in _FILLING and inputs[0] == value and inputs.count(value) == 1


@cache
def _written_out() -> Any:
    """Compiled once and kept: graphs point into it."""
    return torch.jit.CompilationUnit(_WRITTEN_OUT)


def _write_out_attention(graph: Any) -> None:
    """Replace fused attention by operators that have derivatives.

    In scripted code the fused form stands behind a test of the gradient mode; with a mask it is left alone.
    """
    written = _written_out()
    for node in [node for node in nodes_of(graph) if node.kind() in _FUSED]:
        name, taken, mask = _FUSED[node.kind()]
        inputs = list(node.inputs())
        outputs = list(node.outputs())
        plain = str(inputs[mask].type()) == "NoneType" and not any(value.uses() for value in outputs[1:])
        if not plain or (name == "attend" and len({inputs[i].unique() for i in range(3)}) > 1):
            continue
        body = getattr(written, name).graph.copy()
        torch._C._jit_pass_inline(body)
        with graph.insert_point_guard(node):
            results = graph.insertGraph(body, [inputs[i] for i in taken])
        outputs[0].replaceAllUsesWith(results[0])
        node.destroy()
    left = next((node.kind() for node in graph.nodes() if node.kind() in _FUSED), None)
    if left:
        raise Unsupported(
            f"The network uses {left} with a mask, which has no derivative; trace it with gradients on."
        )


def _widen(graph: Any, dtype: torch.dtype) -> None:
    """Turn casts to a narrow dtype (``dtype=5``) into casts to float32; what they make is rounded if it was half."""
    code = _CODES[dtype]
    for node in nodes_of(graph):
        schema = node.schema() if node.kind().startswith("aten::") else ""
        if "dtype" not in schema or schema == "(no schema)":
            continue
        arguments = torch._C.parse_schema(schema).arguments
        for index, argument in enumerate(arguments):
            if argument.name == "dtype" and _truth(node.inputsAt(index)) == code:
                node.replaceInput(index, _constant(graph, node, _FLOAT))
                if dtype.itemsize == 2 and node.outputsSize() == 1:
                    _round(graph, node, code)


def _round(graph: Any, node: Any, code: int) -> None:
    """Have all that reads the result of ``node`` read it rounded to the half dtype of that code."""
    made = node.output()
    last = _constant(graph, node, code)
    holder = graph.create("aten::detach", [made], 1)  # what is inserted goes before a node
    holder.insertAfter(node)
    body = _written_out().rounded.graph.copy()
    with graph.insert_point_guard(holder):
        (result,) = graph.insertGraph(body, [made, last])
    made.replaceAllUsesAfterNodeWith(result.node(), result)
    holder.destroy()


def _prune(graph: Any, arguments: dict[int, Argument], first: int) -> dict[int, Argument]:
    """Drop arguments that nothing uses; mark statistics and normalisation constants. ``first``: index of the image."""
    for index in range(len(list(graph.inputs())) - 1, first + 1, -1):
        if not list(graph.inputs())[index].uses():
            graph.eraseInput(index)
    inputs = list(graph.inputs())[first:]
    statistics = {
        unique
        for node in nodes_of(graph)
        if node.kind() in _NORMS
        for index in (3, 4)
        for unique in _origins(node.inputsAt(index))
    }
    image, met = {inputs[0].unique()}, set()
    for node in nodes_of(graph):
        touched = [v for v in node.inputs() if v.unique() in image]
        if touched and node.kind() in _ELEMENTWISE:
            met |= {v.unique() for v in node.inputs()}
            image |= {v.unique() for v in node.outputs()}
    kept = {}
    for value in inputs[2:]:
        unique = value.unique()
        old = arguments[unique]
        kept[unique] = Argument(old.name, old.value, old.constant, unique in statistics, unique in met)
    return kept


def _origins(value: Any) -> set[int]:
    """The values that may arrive here through the branches of conditions."""
    node = value.node()
    if node.kind() == "prim::If":
        at = [v.unique() for v in node.outputs()].index(value.unique())
        return set().union(*(_origins(list(block.outputs())[at]) for block in node.blocks()))
    if node.kind() == "prim::unchecked_cast":
        return _origins(node.input())
    return {value.unique()}


def _first_channels(graph: Any, arguments: dict[int, Argument]) -> int | None:
    """Channels that the first convolution takes; ``None`` without a convolution of a known weight."""
    for node in nodes_of(graph):
        if node.kind() in _CONVOLUTIONS:
            weight = arguments.get(node.inputsAt(1).unique())
            groups = _truth(
                node.inputsAt(8 if node.kind() in ("aten::_convolution", "aten::convolution") else 6)
            )
            if weight is None or weight.value.dim() != 4 or not isinstance(groups, int):
                return None
            return int(weight.value.shape[1]) * groups
    return None
