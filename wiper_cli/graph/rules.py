"""Rules G1 to G9 and G11 to G13: what no honest graph has (errors), and what few have (worth a look). No torch.

What an *activation* is made of is no step: comparisons and choices that decide about each value behind the first
weighted layer by that value alone, as a leaky rectifier written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from formats.dataflow import PERHAPS, Node, Span
from wiper_cli.graph.flow import Flow, branches, named
from wiper_cli.graph.numbers import doubtful
from wiper_cli.graph.usual import unusual
from wiper_cli.verdict import Severity

#: A logit's factor beyond this, and a one-hot vector whose other entries spread by less than this share of it (G6).
SCALE, ONE_HOT = 1e3, 1e-3
#: Share of the image below which a constant window of it is suspicious (G7), and the side assumed where it is free.
WINDOW, SIDE = 0.05, 32
#: Weighted nodes by which the value that is joined may be deeper than a few values that are joined to it, and than any
#: that come from the first layer and go to the last (G8).
GAP, SKIP = 3, 8
#: Questions kept of one rule, for solving.
MOST_SOURCES = 8
#: Nodes of which an activation consists at most.
MOST_PARTS = 64
#: Heads that are averaged are of similar depth: the shallowest has this share of the deepest one's (G5).
SIMILAR = 0.2

_POINTWISE = frozenset({"pointwise", "step", "choose", "view", "add", "scale"})
#: What asks whether a value is a number, as no activation does: behind a root it is a comparison. So are comparisons of
#: a value with itself, and of what has no value everywhere.
_NUMBER = frozenset({"isnan", "isinf", "isfinite", "nan_to_num", "IsNaN", "IsInf"})
_ALIKE = frozenset({"eq", "ne", "Equal"})
_COMPARING = _ALIKE | {"lt", "le", "gt", "ge", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "isclose"}
#: Steps that put values together, as no activation does.
_MIXING = frozenset(
    {
        "all", "any", "argmax", "argmin", "nonzero", "one_hot", "ArgMax", "ArgMin", "NonZero", "OneHot", "Hardmax",
        "Unique", "NonMaxSuppression",
    }
)  # fmt: skip
_PARTIAL = frozenset(
    {
        "sqrt", "rsqrt", "log", "log2", "log10", "log1p", "logit", "acos", "asin", "acosh", "atanh", "Sqrt", "Log",
        "Acos", "Asin", "Acosh", "Atanh",
    }
)  # fmt: skip
_AVERAGING = frozenset({"view", "concat", "add", "scale", "reduce", "order", "pick", "pointwise"})
_CHANNELWISE = frozenset({"view", "add", "scale", "pick"})
#: What code asks that the examination tries both ways.
_TRIED = frozenset({"is_grad_enabled", "requires_grad"})
#: What code asks of the machine or the precision that it is run in.
_RUN = frozenset(
    {
        "is_autocast_enabled", "is_autocast_cpu_enabled", "is_cuda", "is_cpu", "is_mps", "is_mkldnn", "is_xla",
        "is_meta", "type", "is_contiguous", "is_inference",
    }
)  # fmt: skip
#: Words of a condition that are shown in each other.
_WORDS = 4
#: What leaves every value as it is.
_IDLE = frozenset(
    {
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "detach",
        "clone",
        "unchecked_cast",
    }
)
_BEFORE_STEM = frozenset({"view", "concat", "add", "scale", "pick", "input"})


@dataclass(frozen=True)
class Hit:
    """A rule met at ``node``, which ``path`` shows: nodes from the images to the logits, those ``through`` which it
    leads among them. ``sources``: what is asked or collapsed, here and in the other places where the rule is met, from
    which an input may be solved. ``count``: those places."""

    rule: str
    severity: Severity
    message: str
    through: tuple[int, ...]
    node: int
    sources: tuple[int, ...] = ()
    count: int = 1
    path: tuple[int, ...] = ()

    @property
    def error(self) -> bool:
        """Whether it makes the model suspicious by itself."""
        return self.severity >= Severity.HIGH


def audit(flow: Flow) -> list[Hit]:
    """Every rule that the graph meets, once each, gravest first: the first place, and in how many it is met."""
    if flow.output not in flow.parents:
        message = "The logits do not depend on the pixels of the image."
        return [Hit("WIPER-G09", Severity.INFO, message, (), flow.output, path=(flow.output,))]
    found: dict[str, Hit] = {}
    for check in _CHECKS:
        for hit in check(flow):
            old = found.get(hit.rule, hit)
            kept = hit if hit.severity > old.severity else old
            sources = old.sources if old is hit else (*old.sources, *hit.sources)[:MOST_SOURCES]
            found[hit.rule] = replace(kept, sources=sources, count=old.count + (old is not hit))
    hits = [replace(hit, path=tuple(flow.path(dict.fromkeys(hit.through)))) for hit in found.values()]
    return sorted(hits, key=lambda hit: (-hit.severity, hit.rule))


def _value_decides(flow: Flow) -> Iterator[Hit]:
    for n in flow.live:
        node = flow[n]
        asked = [one for one in node.control if one in flow.parents]
        if node.role == "scalar":
            message = f"Pixels become a number that code can decide on ({_called(node)})."
            yield Hit("WIPER-G01", Severity.HIGH, message, (n,), n, (n,))
        elif asked and not _is_activation(flow, n):
            what = "chooses between values" if node.role == "choose" else "takes its places or sizes"
            message = f"{_called(node)} {what} by the pixels of the image."
            yield Hit("WIPER-G01", Severity.HIGH, message, (asked[0], n), n, (asked[0],))


def _steps(flow: Flow) -> Iterator[Hit]:
    for n in flow.live:
        node = flow[n]
        if node.role == "step" and not _is_activation(flow, n):
            message = f"{_called(node)} compares, rounds or ranks values computed from the pixels."
            yield Hit("WIPER-G02", Severity.HIGH, message, (n,), n, (n,))
        elif node.role == "order":
            message = f"{_called(node)} selects among values computed from the pixels."
            yield Hit("WIPER-G02", Severity.LOW, message, (n,), n)


def _past_the_weights(flow: Flow) -> Iterator[Hit]:
    least, most = flow.least[flow.output], flow.depth[flow.output]
    if least < 2 <= most:
        path = flow.path()
        message = (
            f"A path from the pixels to the logits has {least or 'no'} weighted layer{'s' * (least != 1)}; "
            f"the longest has {most}."
        )
        join = next((n for n in path if len(flow.parents[n]) > 1), flow.output)
        yield Hit("WIPER-G03", Severity.HIGH, message, (), join, _collapsed(flow, path, join))


def _stem(flow: Flow) -> Iterator[Hit]:
    n = flow.images[0]
    while n not in flow.weighted:
        readers = flow.children[n]
        if len(readers) > 1 and not _meet_again(flow, readers):
            message = f"The image, or what is made of it before any weighted layer, is read in {len(readers)} places."
            yield Hit("WIPER-G04", Severity.LOW, message, (readers[-1],), n)
            return
        if not readers or (flow[n].role not in _BEFORE_STEM and flow[n].role != "input"):
            message = f"{_called(flow[n])} comes before any weighted layer."
            yield Hit("WIPER-G04", Severity.LOW, message, (n,), n)
            return
        n = readers[0] if len(readers) == 1 else max(readers)


def _meet_again(flow: Flow, readers: Sequence[int]) -> bool:
    """Whether readers only join again what they take, before any weighted layer: channels normalised one by one."""
    ends = set()
    for n in readers:
        while (
            n not in flow.weighted
            and flow[n].role in ("view", "add", "scale", "pick")
            and len(flow.children[n]) == 1
        ):
            n = flow.children[n][0]
        ends.add(n)
    return len(ends) == 1 and flow[ends.pop()].role == "concat"


def _heads(flow: Flow) -> Iterator[Hit]:
    zone = _behind_heads(flow)
    heads = sorted({one for n in zone for one in flow.parents[n]} & flow.weighted)
    if flow.output in flow.weighted or (len(heads) == 1 and not any(flow[n].role == "input" for n in zone)):
        return
    averaged = (
        bool(heads)
        and all(
            flow[n].role in _AVERAGING and (flow[n].role != "scale" or len(flow.parents[n]) == 1)
            for n in zone
        )
        and all(_is_last(flow, head, zone) for head in heads)
        and min(flow.depth[head] for head in heads) >= SIMILAR * max(flow.depth[head] for head in heads)
    )
    joins = [n for n in zone if len(flow.parents[n]) > 1]
    join = min(joins, default=flow.output)
    if averaged:
        message = f"The logits are made of {len(heads)} heads ({_called(flow[join])})."
        yield Hit("WIPER-G05", Severity.LOW, message, (join,), join)
        return
    sides = sorted(flow.parents[join], key=lambda one: flow.depth[one])
    path = flow.path([sides[0]])
    message = f"Something besides a head is joined to the logits ({_called(flow[join])})."
    yield Hit("WIPER-G05", Severity.HIGH, message, (sides[0], join), join, _collapsed(flow, path, join))


def _behind_heads(flow: Flow) -> list[int]:
    """Nodes between the last weighted layers and the logits."""
    zone, queue = set(), [flow.output]
    while queue:
        n = queue.pop()
        if n not in flow.weighted and n not in zone:
            zone.add(n)
            queue += flow.parents[n]
    return sorted(zone)


def _is_last(flow: Flow, head: int, zone: Sequence[int]) -> bool:
    """Whether nothing weighted reads ``head``."""
    return all(one in zone for one in flow.children[head])


def _constants(flow: Flow) -> Iterator[Hit]:
    for n in _behind_heads(flow):
        node = flow[n]
        if node.role not in ("add", "scale", "choose"):
            continue
        for one in node.data:
            values = None if one in flow.parents else _stored(flow, one)
            if values is None or not values.size or not np.isfinite(values).all():
                continue
            if node.role == "scale" and np.abs(values).max() > SCALE:
                message = (
                    f"{_called(node)} multiplies on the way to the logits by {np.abs(values).max():.3g}."
                )
            elif _one_hot(values):
                message = f"{_called(node)} brings a vector to the logits that stands for one class."
            else:
                continue
            yield Hit("WIPER-G06", Severity.HIGH, message, (n,), n)


def _stored(flow: Flow, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = flow[_shown(flow, n)].values
    return values


def _shown(flow: Flow, n: int) -> int:
    """What views show."""
    while flow[n].role == "view" and len(flow[n].data) == 1:
        n = flow[n].data[0]
    return n


def _one_hot(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    flat = values.reshape(-1)
    if flat.size < 3 or flat.size != max(values.shape):
        return False
    far = int(np.abs(flat - np.median(flat)).argmax())
    rest = np.delete(flat, far)
    return bool(np.ptp(rest) < ONE_HOT * abs(flat[far] - rest.mean()))


def _windows(flow: Flow) -> Iterator[Hit]:
    """Follows the image until a weighted layer; what is taken of it in a row multiplies."""
    height, width = (flow.dataflow.shape[axis] or SIDE for axis in (2, 3))
    share: dict[int, float] = {}
    for n in flow.live:
        before = [share[one] for one in flow.parents[n] if one in share]
        if flow[n].role == "input":
            share[n] = 1.0
        elif before and n not in flow.weighted:
            share[n] = min(before)
            if flow[n].role == "pick":
                spans = flow[n].spans
                share[n] *= _share(spans or (), {2: height, 3: width})
                small = spans is not None and share[n] < WINDOW
                of = f", {100 * share[n]:.2g} % of it" if small else ""
                message = f"{_called(flow[n])} takes pixels of the image before any weighted layer{of}."
                yield Hit("WIPER-G07", Severity.HIGH if small else Severity.LOW, message, (n,), n)


def _share(spans: Sequence[Span], sizes: dict[int, int]) -> float:
    share = 1.0
    for axis, start, stop, step in spans:
        size = sizes.get(axis % 4)
        if size is not None:
            taken = range(size)[start:stop:step] if step else range(0)
            share *= len(taken) / size
    return share


def _late_joins(flow: Flow) -> Iterator[Hit]:
    """A few values taken early that act on much deeper ones; squeeze and excite acts on what it was made of."""
    for n in flow.live:
        sides = flow.parents[n]
        if len(sides) < 2 or flow[n].role not in ("add", "scale", "choose"):
            continue
        fork = flow.dominator[n]
        whole = flow.depth.get(fork, 0) <= 1 and flow.ahead[n] <= 1
        few = {side: next(filter(flow.collapses, flow.dominators(side, fork)), None) for side in sides}
        if not whole and all(one is None for one in few.values()):
            continue
        depth = flow.between(fork, n)
        for side, source in few.items():
            deepest = max(depth[other] for other in sides if other != side)
            gap = deepest - depth[side]
            sure = source is not None and gap >= GAP
            if not sure and not (whole and (gap >= SKIP or (source is not None and deepest))):
                continue
            what, asked = ("values", side) if source is None else ("a few values", source)
            message = (
                f"{_called(flow[n])} joins {what} taken early, past {depth[side]} weighted layers, to values past "
                f"{deepest}."
            )
            yield Hit(
                "WIPER-G08", Severity.HIGH if sure else Severity.LOW, message, (asked, side, n), n, (asked,)
            )


def _deployment(flow: Flow) -> Iterator[Hit]:
    """What no pixel decides but how the network is run, or chance: of conditions and loops one side is never seen here.
    So with a value that is computed from it, or that was written to by it or not."""
    for n in sorted(flow.behind([flow.output], conditions=False)):
        node = flow[n]
        told = next((one for one in node.inputs if named(flow[one]) in _RUN), None)
        what = ""
        if node.role == "random":
            what = f"{_called(node)} draws random numbers"
        elif node.operator == PERHAPS:
            what = "whether a value is written to hangs on how the network is run"
        elif told is not None and not branches(node):
            what = f"{_called(node)} is given {_words(flow, told)}, which says how the network is run"
        if what:
            message = f"A branch was not examined: {what}, and other answers than were seen may follow."
            yield Hit("WIPER-G11", Severity.MEDIUM, message, (n,) if n in flow.parents else (), n)
            continue
        if not branches(node) or any(one in flow.parents for one in node.control):
            continue
        asked = [flow[one] for one in flow.behind(node.control)]
        open_ones = {
            one.operator.rpartition("::")[2]
            for one in asked
            if one.role == "shape" or not (one.inputs or one.role in ("stored", "input"))
        }
        open_ones |= {"device" for one in asked if one.role == "stored" and one.place == "device"}
        if open_ones - _TRIED and len({_meant(flow, one) for one in node.data} - {None}) > 1:
            message = (
                f"A branch was not examined: {_called(node)} asks how the network is run "
                f"({_words(flow, node.control[-1])[:120]}), and computes something else where the answer is another."
            )
            yield Hit("WIPER-G11", Severity.MEDIUM, message, (n,) if n in flow.parents else (), n)


def _meant(flow: Flow, n: int) -> int | None:
    """The value that a condition has on each side that does not end in an error; ``None`` where all do."""
    while (kind := flow[n].operator.rpartition("::")[2]) == "If" or kind in _IDLE:
        sides = [one for one in flow[n].data if flow[one].operator != "prim::Uninitialized"]
        if kind == "If" and len({*sides}) != 1:
            break
        n = sides[0]
    return None if kind == "Uninitialized" else n


def _words(flow: Flow, n: int, level: int = 0) -> str:
    """A condition as code: ``eq(size(input, 0), 1000)``."""
    node = flow[n]
    if node.role == "stored":
        values = node.values
        return f"{values.item():g}" if values is not None and values.size == 1 else node.place[:40]
    name = node.operator.rpartition("::")[2]
    inner = ", ".join(_words(flow, one, level + 1) for one in node.inputs[:3]) if level < _WORDS else "…"
    return f"{name}({inner})" if node.inputs else name


def _no_numbers(flow: Flow) -> Iterator[Hit]:
    """Roots, logarithms, quotients and the like of what is not known to stay in their domain."""
    for n, argument in doubtful(flow):
        message = (
            f"A value can stop being a number for some image: {_called(flow[n])} is asked of what is not known to stay "
            "in its domain."
        )
        yield Hit("WIPER-G12", Severity.MEDIUM, message, (argument, n), n, (argument,))


def _unusual(flow: Flow) -> Iterator[Hit]:
    return (unusual_hit(flow, n, said) for n, said in unusual(flow))


def unusual_hit(flow: Flow, n: int, said: str) -> Hit:
    """That of G13."""
    message = f"Usual classifiers do not compute this from pixels: {_called(flow[n])} {said}."
    return Hit("WIPER-G13", Severity.MEDIUM, message, (n,), n, (n,))


def _remarks(flow: Flow) -> Iterator[Hit]:
    for note in flow.dataflow.notes:
        message = f"The graph has {note}; only what leads to the logits was looked at."
        yield Hit("WIPER-G09", Severity.INFO, message, (), flow.output)


_CHECKS: Sequence[Callable[[Flow], Iterator[Hit]]] = (
    _value_decides, _steps, _past_the_weights, _stem, _heads, _constants, _windows, _late_joins, _deployment,
    _no_numbers, _unusual, _remarks,
)  # fmt: skip


def _is_activation(flow: Flow, n: int) -> bool:
    """Whether a node decides about each value behind a weighted layer by that value alone."""
    asked: set[int] = set()
    met: set[int] = set()
    queue = [n]
    while queue:
        one = queue.pop()
        if one in met:
            continue
        met.add(one)
        if len(met) > MOST_PARTS or len(asked) > 1 or named(flow[one]) in _MIXING:
            return False
        if _asks_for_a_number(flow, one) or _by_place(flow, one):
            return False
        if flow[one].role in _POINTWISE:
            queue += flow.parents[one]
        else:
            asked.add(one)
    return len(asked) == 1 and all(
        flow.depth[one] > 0 and flow[one].role not in ("reduce", "pick", "scalar") for one in asked
    )


def _by_place(flow: Flow, n: int) -> bool:
    """Whether a node compares with another constant in each channel or place, as no activation does."""
    if named(flow[n]) not in _COMPARING:
        return False
    constants = (_stored(flow, one) for one in flow[n].data if one not in flow.parents)
    return any(values is not None and values.size > 1 and np.ptp(values) > 0 for values in constants)


def _asks_for_a_number(flow: Flow, n: int) -> bool:
    """Whether a node decides about a value by whether it is a number."""
    name = named(flow[n])
    if name not in _COMPARING:
        return name in _NUMBER
    queue = [_shown(flow, one) for one in flow[n].data]
    if name in _ALIKE and len(queue) == 2 and queue[0] == queue[1]:
        return True
    met = set[int]()
    while queue and len(met) <= MOST_PARTS:
        one = queue.pop()
        if named(flow[one]) in _PARTIAL and one in flow.parents:
            return True
        if one not in met and flow[one].role in _POINTWISE:
            met.add(one)
            queue += flow.parents.get(one, [])
    return False


def _collapsed(flow: Flow, path: Sequence[int], join: int) -> tuple[int, ...]:
    """The last node of ``path`` before ``join`` that makes few values of many, if there is one."""
    before = path[: path.index(join)] if join in path else path
    return tuple(filter(flow.collapses, before))[-1:]


def _called(node: Node) -> str:
    """``Where 'name'``."""
    operator = node.operator.rpartition("::")[2]
    return f"{operator} {node.place[:80]!r}" if node.place else operator
