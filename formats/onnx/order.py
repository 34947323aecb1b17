"""Nodes in the order in which they can be computed, as onnxruntime sorts them before it runs a graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from heapq import heapify, heappop, heappush

from formats.errors import Hostile, Unsupported

Names = Sequence[str]


def in_order(
    nodes: Sequence[tuple[Names, Names]], given: Iterable[str], outer: Container[str] = ()
) -> list[int]:
    """Indices of ``nodes`` (names read, names made), each behind what it reads, otherwise in the given order.

    ``given``: what the graph has without computing it (inputs, initializers); ``outer``: what lies around a subgraph;
    "" is an input left out. Raises :class:`Unsupported` for a name that nothing makes and for circles, which
    onnxruntime refuses too, and :class:`Hostile` for a name that is made twice.
    """
    made = dict.fromkeys(given, -1)
    for index, (_, outputs) in enumerate(nodes):
        for name in outputs:
            if name in made:
                raise Hostile(
                    f"Two values of the ONNX graph are called {name!r}; readers disagree which one counts.",
                    "WIPER-ONNX-003",
                    name,
                )
            if name:
                made[name] = index
    waiting, readers = [0] * len(nodes), [list[int]() for _ in nodes]
    for index, (inputs, _) in enumerate(nodes):
        for name in set(inputs) - {""}:
            maker = made.get(name)
            if maker is None and name not in outer:
                raise Unsupported(f"The ONNX graph reads {name!r}, which nothing in it makes.")
            if maker is not None and maker >= 0:
                waiting[index] += 1
                readers[maker].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    heapify(ready)
    ordered = []
    while ready:
        ordered.append(index := heappop(ready))
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, reader)
    if len(ordered) < len(nodes):
        raise Unsupported("The ONNX graph runs in a circle: nodes wait for each other.")
    return ordered
