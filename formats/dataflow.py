"""How values flow through a graph: one small representation for every kind of file whose graph is its own.

A *node* is one value and what computes it, from the images to the logits. Weights are no nodes of interest: a
stored tensor is a node without inputs, its numbers kept when they are few. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from formats.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

#: What a node does, in the words of the audit:
#: ``input`` the images; ``stored`` a tensor or number of the file; ``linear`` a product (convolution, matrix product,
#: recurrent layer), *weighted* where one operand is stored; ``view`` the same values in another shape or precision;
#: ``pick`` some of the values; ``concat``; ``add`` sums; ``scale`` products and quotients element by element;
#: ``reduce`` means and sums over axes; ``order`` greatest values, writes at places; ``step`` comparisons, logic,
#: rounding, places of greatest values; ``choose`` one of several values by its control; ``pointwise`` a smooth function
#: of each value; ``scalar`` a tensor's value made a number that code decides on; ``shape`` sizes and dtypes, which no
#: pixel changes; ``random``; ``other`` whatever else, through which values flow.
Role = Literal[
    "input", "stored", "linear", "view", "pick", "concat", "add", "scale", "reduce", "order", "step", "choose",
    "pointwise", "scalar", "shape", "random", "other",
]  # fmt: skip

#: Operator of a value that was written to or not, by how the network is run: in which dtype, on what, from what layout.
PERHAPS = "perhaps written"
#: Numbers of a stored tensor that are kept, and nodes of a graph, where writes may multiply them.
SMALL, MOST_NODES = 1 << 16, 1 << 20
#: Numbers of one setting that are kept.
MOST_SETTINGS = 16


class Span(NamedTuple):
    """Positions ``start``, ``start + step``, … below ``stop`` of an axis; ``stop`` ``None``: to its end."""

    axis: int
    start: int
    stop: int | None
    step: int = 1


def cropped(axis: int, before: int, after: int) -> Span:
    """What a pad by these numbers leaves of an axis, where they are negative."""
    return Span(axis, max(0, -before), min(0, after) or None)


@dataclass(frozen=True, slots=True)
class Node:
    """One value. ``operator``, ``place``: as the file says them, not to be trusted; ``ToHalf`` behind
    the operator of a cast to half precision in a file of wider weights. ``data``: numbers of the nodes
    whose values it is computed from, ``control``: of those that only decide which (conditions, indices, shapes).
    ``values``: of a small stored tensor, or of its size, float64. ``spans``: what a ``pick`` takes, where
    that is constant. ``settings``: numbers that its operator is set to, by their names in the file's format."""

    operator: str
    role: Role
    data: tuple[int, ...] = ()
    control: tuple[int, ...] = ()
    place: str = ""
    values: Any = None
    spans: tuple[Span, ...] | None = None
    settings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[int, ...]:
        """All that it reads."""
        return self.data + self.control


@dataclass(frozen=True)
class Dataflow:
    """Nodes in an order in which inputs come first, but for what loops carry from one round to the next.

    ``output``: the logits. ``shape``: of the images [N,C,H,W], ``None`` where free. ``prefix(node)``: normalised
    float32 images → the node's value, differentiable where its operators are; raises
    :class:`formats.errors.Unsupported`. ``notes``: sentences.
    """

    nodes: tuple[Node, ...]
    output: int
    shape: tuple[int | None, ...]
    prefix: Callable[[int], Callable[[Tensor], Tensor]]
    notes: tuple[str, ...] = ()


@dataclass
class Builder:
    """Nodes as they are found."""

    nodes: list[Node] = field(default_factory=list)

    def add(
        self, operator: str, role: Role, data: Sequence[int] = (), control: Sequence[int] = (), **details: Any
    ) -> int:
        """The number of a new node. Raises ``Unsupported`` for more than a graph of the gate's bounds can need."""
        if len(self.nodes) >= MOST_NODES:
            raise Unsupported("The graph is too tangled to be followed.")
        self.nodes.append(Node(operator, role, tuple(data), tuple(control), **details))
        return len(self.nodes) - 1

    def number(self, at: int) -> int | None:
        """A stored whole number behind views."""
        values = self.values(at)
        return None if values is None or values.size != 1 else int(values.reshape(-1)[0])

    def values(self, at: int) -> Any:
        """The numbers of a stored tensor behind views, ``None`` where it is large or computed."""
        while self.nodes[at].role == "view" and len(self.nodes[at].data) == 1:
            at = self.nodes[at].data[0]
        return self.nodes[at].values


def roles(table: dict[Role, str]) -> dict[str, Role]:
    """Operator → role, from the operators of each role in one string."""
    return {operator: role for role, operators in table.items() for operator in operators.split()}
