"""What the code of an archive costs torch, with every call written out as torch does when it loads a network.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from formats.torchscript.bodies import MAX_JOINS, Body
from formats.torchscript.words import MAX_CALLS, bomb

#: Operators with every call written out, as torch does when it loads a network, and with every loop too.
MAX_SIZE, MAX_STEPS = 12_000, 10_000_000
#: Lines and expressions of all kinds, written out so: lists, conditions and attributes cost torch as operators do.
MAX_PARTS = 150_000


class Cost(NamedTuple):
    """Operators of a function with all that it calls, lines and expressions, those that it runs, calls in each other,
    lists joined."""

    size: int = 0
    parts: int = 0
    steps: int = 0
    height: int = 0
    joins: int = 0


def count(bodies: Mapping[str, Body], known: dict[str, Cost], name: str, depth: int = 0) -> Cost:
    """What a function costs with all that it calls; raises Hostile (WIPER-TS-022) where that is too much."""
    if name in known:
        return known[name]
    body = bodies[name]
    place = body.function.place
    if depth > MAX_CALLS:
        raise bomb(f"Functions call each other more than {MAX_CALLS} deep ({name[:200]}).", place)
    known[name] = Cost(height=MAX_CALLS)  # one that calls itself is as deep as can be
    size, parts, steps, height, joins = body.size, body.parts, body.steps, 0, body.joins
    for rounds, callee in body.calls:
        inner = count(bodies, known, callee, depth + 1)
        size, parts, steps = size + inner.size, parts + inner.parts, steps + rounds * inner.steps
        height, joins = max(height, inner.height + 1), joins + rounds * inner.joins
    if size > MAX_SIZE or parts > MAX_PARTS or steps > MAX_STEPS or height > MAX_CALLS:
        raise bomb(
            f"{name[:200]} has {size} operators and {parts} lines and expressions, runs {steps} of these, or calls "
            f"functions {height} deep; {MAX_SIZE}, {MAX_PARTS}, {MAX_STEPS} and {MAX_CALLS} are allowed.", place,
        )  # fmt: skip
    if joins > MAX_JOINS:
        raise bomb(
            f"{name[:200]} joins lists or strings {joins} times, each of which may double them; {MAX_JOINS} times are "
            "allowed.", place,
        )  # fmt: skip
    known[name] = Cost(size, parts, steps, height, joins)
    return known[name]
