"""What an ONNX graph would cost if it ran, judged from its bytes: operators, functions, loops, sizes.

The graph is gone through as a runtime would go through it, with functions and loops expanded, but with the sizes of
values in the place of values (:mod:`formats.onnx.sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from formats.errors import Hostile, Unsupported
from formats.onnx.allowed import ALLOWED, PROGRAMS
from formats.onnx.messages import Message, Range
from formats.onnx.order import in_order
from formats.onnx.payload import few_numbers, shape_of
from formats.onnx.sizes import Value, at_least

_MAX_NODES, _MAX_NESTING = 100_000, 30
#: Elements of one value, and elements by which all values together may grow that are made from stored tensors alone:
#: these a runtime computes, and keeps, before it sees an image.
_MAX_ELEMENTS, _MAX_GROWN = 1 << 30, 1 << 28
#: Longer lists of an attribute say nothing about a size.
_MAX_LIST = 128
_LONG = 16

#: AttributeProto.AttributeType → the field that holds the value.
_HELD: Mapping[int, str] = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs",
    11: "sparse_tensor", 12: "sparse_tensors", 13: "tp", 14: "type_protos",
}  # fmt: skip
_FIELDS = frozenset(_HELD.values())

Key = tuple[str, str, str]
Values = dict[str, Value]
_NOTHING = Value()


def domain(message: Message) -> str:
    """Domain of a node, a function or an opset; the standard's has two names."""
    named: str = message.get("domain", "")
    return "" if named == "ai.onnx" else named


def subgraphs(node: Message) -> Iterator[Message]:
    """Graphs in the attributes of a node."""
    for attribute in node.get("attribute", ()):
        if "g" in attribute:
            yield attribute["g"]
        yield from attribute.get("graphs", ())


def every_node(model: Message) -> Iterator[Message]:
    """The nodes of the main graph, of the functions, and of all subgraphs."""
    pending = [model["graph"], *model.get("functions", ())][::-1]
    while pending:
        for node in pending.pop().get("node", ()):
            yield node
            pending += subgraphs(node)


def check(model: Message, data: bytes) -> None:
    """Raises :class:`Hostile` and :class:`Unsupported` for a graph that no runtime should be given."""
    functions: dict[Key, Message] = {}
    for one in model.get("functions", ()):
        key = _key(one, one.get("name", ""))
        if key in functions:
            raise Hostile(f"Two functions of the ONNX file are called {key[1]!r}.", "WIPER-ONNX-003", key[1])
        if key[0] in ALLOWED:
            raise Hostile(
                f"The ONNX file defines a function {key[1]!r} in the domain {key[0]!r} of built-in operators, which "
                "some runtimes would run instead.",
                "WIPER-ONNX-013",
                key[1],
            )
        functions[key] = one
    for count, node in enumerate(every_node(model)):
        if count == _MAX_NODES:
            raise Unsupported(f"The ONNX file has more than {_MAX_NODES} nodes, more than any classifier.")
        _check_node(node, functions)
    graph = model["graph"]
    values = {name["name"]: Value(_declared(name)) for name in graph.get("input", ()) if "name" in name}
    _Walk(functions, data).graph(graph, values, {})


def _key(message: Message, name: str) -> Key:
    return domain(message), name, message.get("overload", "")


def _declared(value: Message) -> tuple[int, ...] | None:
    """Least shape of a graph input: 1 where it is free."""
    dims = value.get("type", {}).get("tensor_type", {}).get("shape", {}).get("dim")
    return None if dims is None else tuple(max(dim.get("dim_value", 1), 1) for dim in dims)


def _check_node(node: Message, functions: Mapping[Key, Message]) -> None:
    kind, place, name = node.get("op_type", ""), domain(node), node.get("name", "")
    if kind in PROGRAMS:
        raise Hostile(
            f"The ONNX node {name!r} asks the runtime to run a program ({kind}).", "WIPER-ONNX-015", name
        )
    if kind not in ALLOWED.get(place, ()) and _key(node, kind) not in functions:
        called = f"{place}::{kind}" if place else kind
        raise Unsupported(f"The ONNX file uses the operator {called[:100]!r}, which is not known here.")
    seen = set()
    for attribute in node.get("attribute", ()):
        _check_attribute(attribute, kind)
        if attribute.get("name") in seen:
            raise Hostile(
                f"A {kind} node of the ONNX file has two attributes {attribute.get('name')!r}.",
                "WIPER-ONNX-003",
                name,
            )
        seen.add(attribute.get("name"))


def _check_attribute(attribute: Message, kind: str) -> None:
    """A value is of the kind that the attribute says, or a reference to the attribute of a function."""
    held = _FIELDS & attribute.keys()
    wanted = set() if "ref_attr_name" in attribute else {_HELD.get(attribute.get("type", 0))}
    if not held <= wanted:
        raise Hostile(
            f"The attribute {attribute.get('name')!r} of a {kind} node holds {', '.join(sorted(held))} where it says "
            f"type {attribute.get('type', 0)}; readers disagree which one counts.",
            "WIPER-ONNX-014",
            kind,
        )


class _Node(NamedTuple):
    """A node, prepared once; ``bound``: its attributes that are references to those of the function it stands in."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: dict[str, Message]
    bound: dict[str, str]
    function: Message | None
    cost: int


@dataclass
class _Walk:
    functions: Mapping[Key, Message]
    data: bytes
    nodes: int = 0
    grown: int = 0
    #: By the identity of a graph or function, since one is gone through many times.
    prepared: dict[int, list[_Node]] = field(default_factory=dict)
    captured: dict[int, list[str]] = field(default_factory=dict)

    def graph(self, graph: Message, values: Values, around: Values, depth: int = 0) -> list[Value]:
        """The outputs of a graph; ``values``: its inputs; ``around``: those of the graph that it stands in."""
        self.count(_cost(graph, "initializer", "input", "output") + len(self.outer(graph)) // _LONG)
        values.update((name, around[name]) for name in self.outer(graph) if name in around)
        for tensor in graph.get("initializer", ()):
            values[tensor.get("name", "")] = self.stored(tensor)
        self.run(graph, values, {}, depth)
        return [_read(values, one.get("name", "")) for one in graph.get("output", ())]

    def run(self, graph: Message, values: Values, bound: Mapping[str, Message], depth: int) -> None:
        """Go through the nodes of a graph or function; ``bound``: attributes that the function was called with."""
        if depth > _MAX_NESTING:
            raise Hostile("The ONNX file's functions call themselves, or nest too deep.", "WIPER-ONNX-011")
        if id(graph) not in self.prepared:
            nodes = graph.get("node", ())
            order = in_order([(self.reads(node), node.get("output", ())) for node in nodes], values)
            self.prepared[id(graph)] = [self.node(nodes[index]) for index in order]
        for node in self.prepared[id(graph)]:
            self.count(node.cost)
            inputs = [values[name] if name else _NOTHING for name in node.inputs]
            made = self.outputs(node, inputs, values, bound, depth)
            for position, name in enumerate(node.outputs):
                values[name] = made[position] if position < len(made) else _NOTHING

    def node(self, node: Message) -> _Node:
        kind, attributes, bound = node.get("op_type", ""), {}, {}
        for one in node.get("attribute", ()):
            if "ref_attr_name" in one:
                bound[one.get("name", "")] = one["ref_attr_name"]
            else:
                attributes[one.get("name", "")] = one
        return _Node(
            kind, node.get("input", ()), node.get("output", ()), attributes, bound,
            self.functions.get(_key(node, kind)), 1 + _cost(node, "input", "output", "attribute"),
        )  # fmt: skip

    def count(self, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > _MAX_NODES:
            raise Hostile(f"The ONNX file expands to more than {_MAX_NODES} nodes.", "WIPER-ONNX-011")

    def reads(self, node: Message) -> list[str]:
        """Inputs of a node and what its subgraphs read from outside."""
        return [*node.get("input", ()), *(name for graph in subgraphs(node) for name in self.outer(graph))]

    def outer(self, graph: Message) -> list[str]:
        """Names that a graph reads and neither has nor makes."""
        if id(graph) not in self.captured:
            nodes = graph.get("node", ())
            own = {one.get("name", "") for part in ("input", "initializer") for one in graph.get(part, ())}
            own.update(name for node in nodes for name in node.get("output", ()))
            read = [name for node in nodes for name in self.reads(node)]
            read += [one.get("name", "") for one in graph.get("output", ())]
            self.captured[id(graph)] = [name for name in dict.fromkeys(read) if name not in own]
        return self.captured[id(graph)]

    def outputs(
        self, node: _Node, inputs: list[Value], values: Values, bound: Mapping[str, Message], depth: int
    ) -> Sequence[Value]:
        attributes = node.attributes
        if node.bound:
            given = {name: bound[there] for name, there in node.bound.items() if there in bound}
            attributes = {**attributes, **given}
        if node.function is not None:
            return self.call(node.function, inputs, attributes, depth + 1)
        if node.kind == "Loop":
            return self.loop(inputs, attributes, values, depth + 1)
        if node.kind == "If":
            for name in ("then_branch", "else_branch"):
                if "g" in attributes.get(name, ()):
                    self.graph(attributes[name]["g"], {}, values, depth + 1)
            return ()
        if node.kind == "Constant":
            return (self.constant(attributes),)
        return (self.computed(node.kind, inputs, attributes),)

    def call(
        self, function: Message, inputs: Sequence[Value], attributes: Mapping[str, Message], depth: int
    ) -> list[Value]:
        self.count(_cost(function, "input", "output", "attribute_proto"))
        values = dict.fromkeys(function.get("input", ()), _NOTHING)
        values.update(zip(values, inputs, strict=False))
        defaults = {one.get("name", ""): one for one in function.get("attribute_proto", ())}
        self.run(function, values, {**defaults, **attributes}, depth)
        return [_read(values, name) for name in function.get("output", ())]

    def loop(
        self, inputs: Sequence[Value], attributes: Mapping[str, Message], values: Values, depth: int
    ) -> list[Value]:
        """Inputs: number of turns, condition, state; the body makes condition, state and what is stacked."""
        turns = inputs[0].numbers if inputs else None
        body = attributes.get("body", {}).get("g")
        if body is None or not turns or turns[0] > _MAX_NODES:
            raise Unsupported("The ONNX file holds a Loop that has no end, or none that is stored.")
        formal = [one.get("name", "") for one in body.get("input", ())]
        state = list(inputs[2:])
        stacked: list[Value] = []
        for turn in range(int(turns[0])):
            self.count(1)
            given = [Value((), (turn,), True), _NOTHING, *state]
            made = self.graph(body, dict(zip(formal, given, strict=False)), values, depth)[1:]
            if len(made) < len(state):
                raise Unsupported("The ONNX file holds a Loop whose body gives back less than it takes.")
            state, stacked = made[: len(state)], made[len(state) :]
        return [*state, *(Value(one.shape and (int(turns[0]), *one.shape)) for one in stacked)]

    def computed(self, kind: str, inputs: Sequence[Value], attributes: Mapping[str, Message]) -> Value:
        plain: dict[str, Any] = {}
        for name, one in attributes.items():
            held = one.get(_HELD.get(one.get("type", 0), ""))
            if isinstance(held, int | float) or (isinstance(held, list) and len(held) <= _MAX_LIST):
                plain[name] = held
            elif isinstance(held, Range) and held.end - held.start <= _MAX_LIST:
                plain[name] = self.data[held.start : held.end]
        value = at_least(kind, inputs, plain)
        size = value.elements
        if value.constant:
            self.grown += max(0, size - sum(one.elements for one in inputs))
        if size > _MAX_ELEMENTS or self.grown > _MAX_GROWN:
            raise Hostile(
                f"The ONNX file holds a node ({kind}) that makes a tensor of {size} elements from what is stored.",
                "WIPER-ONNX-016",
                kind,
            )
        return value

    def constant(self, attributes: Mapping[str, Message]) -> Value:
        for one in attributes.values():
            if "t" in one:
                return self.stored(one["t"])
            if "i" in one or "ints" in one:
                numbers = one.get("ints", [one.get("i", 0)])
                few = tuple(numbers) if len(numbers) <= _MAX_LIST else None
                return Value((len(numbers),) if "ints" in one else (), few, True)
        return Value(constant=True)

    def stored(self, tensor: Message) -> Value:
        return Value(shape_of(tensor), few_numbers(tensor, self.data), True)


def _cost(message: Message, *parts: str) -> int:
    """Long lists count as nodes do: they are gone through each time."""
    return sum(len(message.get(part, ())) for part in parts) // _LONG


def _read(values: Values, name: str) -> Value:
    if name not in values:
        raise Unsupported(f"The ONNX graph reads {name!r}, which nothing in it makes.")
    return values[name]
