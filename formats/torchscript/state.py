"""Whether a network writes into what it still holds when it is asked again: its answers may then depend on what came
before. The examination would not see it, which holds every value of the file as it was stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from formats.errors import Stateful

CONTAINERS = frozenset({"ListType", "DictType", "TupleType", "OptionalType"})
#: Operators that may give back what they were given, which their schemas do not say.
_GIVES_BACK = frozenset(
    f"aten::{name}"
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "einsum")
)
_ANY = "alias::*"


def nodes_of(block: Any) -> Iterator[Any]:
    """All nodes of a graph or block in order, those of inner blocks after their owner."""
    for node in list(block.nodes()):
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)


def refuse_state(graph: Any, stored: set[int]) -> None:
    """Raises :class:`Stateful` where a node may write into one of the values ``stored``, by number, or into something
    inside one. Nothing is known of the order: a value that is stored in one case is taken to be so always."""
    nodes = list(nodes_of(graph))
    state = _State({*stored}, set())
    while True:
        before = len(state.kept), len(state.holding)
        for node in nodes:
            state.follow(node)
        if before == (len(state.kept), len(state.holding)):
            return


class _State:
    """``kept``: values that may be stored memory. ``holding``: containers of this call with such values inside."""

    def __init__(self, kept: set[int], holding: set[int]) -> None:
        self.kept, self.holding = kept, holding

    def follow(self, node: Any) -> None:
        """What ``node`` makes of these values. Raises :class:`Stateful` where it writes into one."""
        inputs, outputs = list(node.inputs()), list(node.outputs())
        for block in node.blocks():
            entering, leaving = list(block.inputs()), list(block.outputs())
            for value, inner in zip(inputs[2:], entering[1:], strict=False):
                self.pass_on(value, inner)
            for value, result in zip(outputs, leaving[len(leaving) - len(outputs) :], strict=True):
                self.pass_on(result, value)
        kind, schema = node.kind(), node.schema()
        if kind.endswith("Construct"):
            if any(self.reaches(value) for value in inputs):
                self.holding |= {value.unique() for value in outputs}
        elif kind.startswith("prim::") and not list(node.blocks()):  # their schemas say nothing of memory
            for value in inputs:
                for output in outputs:
                    self.take_out(value, output)
        elif "->" in schema:
            self.call(kind, torch._C.parse_schema(schema), inputs, outputs)

    def call(self, kind: str, law: Any, inputs: list[Any], outputs: list[Any]) -> None:
        """An operator by its schema."""
        for value, argument in zip(inputs, law.arguments, strict=False):
            about = argument.alias_info
            if about is not None and about.is_write and value.unique() in self.kept:
                raise Stateful(
                    f"The network keeps state: it writes into what it stores ({kind}), so that its answers may depend "
                    "on what it was asked before."
                )
            if about is not None and about.is_write and any(map(self.reaches, inputs)):
                self.holding |= {value.unique()} if value.type().kind() in CONTAINERS else set()
            for output, result in zip(outputs, law.returns, strict=False):
                given = result.alias_info.before_set if result.alias_info else set()
                if about is not None and not given.isdisjoint(about.before_set):
                    self.pass_on(value, output)
                elif _ANY in given or kind in _GIVES_BACK or (given and value.type().kind() in CONTAINERS):
                    self.take_out(value, output)

    def reaches(self, value: Any) -> bool:
        """Whether it may be, or have inside, something stored."""
        return value.unique() in self.kept or value.unique() in self.holding

    def pass_on(self, value: Any, other: Any) -> None:
        """The other may be the same as ``value``."""
        self.kept |= {other.unique()} if value.unique() in self.kept else set()
        self.holding |= {other.unique()} if value.unique() in self.holding else set()

    def take_out(self, value: Any, part: Any) -> None:
        """The part may be the same as ``value``, or something inside it."""
        if self.reaches(value) and part.type().kind() in (*CONTAINERS, "TensorType"):
            self.kept.add(part.unique())
