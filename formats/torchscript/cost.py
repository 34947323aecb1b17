"""What the code of an archive costs torch, with every call written out as torch does when it loads a network.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from formats.errors import Unsupported
from formats.torchscript.bodies import MAX_JOINS, Body
from formats.torchscript.words import MAX_CALLS, bomb

#: Operators with every call written out, as torch does when it loads a network, and with every loop too.
MAX_SIZE, MAX_STEPS = 16_000, 10_000_000
#: Lines and expressions of all kinds, written out so: lists, conditions and attributes cost torch as operators do.
MAX_PARTS = 150_000
#: Times as much as stands in the code, up to which what is too large is a large network and no bomb: layers share code.
MOST_SHARED = 64


class Cost(NamedTuple):
    """Operators of a function with all that it calls, lines and expressions, those that it runs, calls in each other,
    lists joined, texts filled in."""

    size: int = 0
    parts: int = 0
    steps: int = 0
    height: int = 0
    joins: int = 0
    fills: int = 0


def _shared(bodies: Mapping[str, Body], parts: int) -> bool:
    """Whether what is too large stands in the code at a size that is not, and is not written out too often."""
    stands = sum(one.size for one in bodies.values()), sum(one.parts for one in bodies.values())
    return stands[0] <= MAX_SIZE and parts <= MOST_SHARED * stands[1]


def count(bodies: Mapping[str, Body], known: dict[str, Cost], name: str, depth: int = 0) -> Cost:
    """What a function costs with all that it calls; raises Hostile (WIPER-TS-022) where that is too much, and
    Unsupported where it is for the size of the network."""
    if name in known:
        return known[name]
    body = bodies[name]
    place = body.function.place
    if depth > MAX_CALLS:
        raise bomb(f"Functions call each other more than {MAX_CALLS} deep ({name[:200]}).", place)
    known[name] = Cost(height=MAX_CALLS)  # one that calls itself is as deep as can be
    size, parts, steps, height, kept = body.size, body.parts, body.steps, 0, 0
    joins, fills = body.joins, body.fills
    for rounds, callee in body.calls:
        inner = count(bodies, known, callee, depth + 1)
        size, parts, steps = size + inner.size, parts + inner.parts, steps + rounds * inner.steps
        height = max(height, inner.height + 1)
        joins += rounds * inner.joins
        if bodies[callee].keeps:  # what it makes of a text ends with it
            kept = max(kept, inner.fills)
        else:
            fills += rounds * inner.fills
    fills += kept
    large = size > MAX_SIZE or parts > MAX_PARTS
    if large and _shared(bodies, parts):
        raise Unsupported(
            f"{place}: {name[:200]} has {size} operators and {parts} lines and expressions with every call written "
            f"out; {MAX_SIZE} and {MAX_PARTS} are opened. Trace the network, or export it as ONNX."
        )
    if large or steps > MAX_STEPS or height > MAX_CALLS:
        raise bomb(
            f"{name[:200]} has {size} operators and {parts} lines and expressions, runs {steps} of these, or calls "
            f"functions {height} deep; {MAX_SIZE}, {MAX_PARTS}, {MAX_STEPS} and {MAX_CALLS} are allowed.", place,
        )  # fmt: skip
    if joins + fills > MAX_JOINS:
        raise bomb(
            f"{name[:200]} joins lists or strings {joins + fills} times, each of which may double them; {MAX_JOINS} "
            "times are allowed.", place,
        )  # fmt: skip
    known[name] = Cost(size, parts, steps, height, joins, fills)
    return known[name]
