"""Branches that sleep: values joined to others that are the same for all clean images, until an input wakes them.

Which operators take the pixels, how many layers the branch has and where it is joined are free to whoever makes one.
What is not: it has to be silent on clean images, or it spoils their answers, and loud on its trigger. So values that
are joined are looked at by what they do, and from how many pixels they are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from formats import FormatError
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.leaky import gradient
from wiper_cli.graph.solve import LOCAL, Asked, Loss, Taken, chosen, descend, effect

#: Sides that are looked at, and nodes that are run for all of them, in networks; each is run some dozen times.
MOST_SIDES, WORK = 256, 1.0
#: Clean images looked at first and in all, and the share of them on which a branch is silent.
FIRST, IMAGES, SILENT = 3, 16, 0.9
#: A side that moves by less than this share of itself is looked at closely.
QUIET = 1e-3
#: What wakes a side moves it so many times farther than clean images do; where it takes many pixels to, so many times:
#: honest sides reach 26.
LOUD, DEAFENING = 50.0, 1000.0
#: After one direction that moves a side less than this, no second is tried: most honest sides.
FAR_FROM_LOUD = LOUD / 10
#: Gradient below this share of the greatest is none; directions whose gradients are taken.
FAINT, DIRECTIONS = 0.01, 2
#: Inputs that wake a side of which the answers are asked.
MOST_TRIED = 4


@dataclass(frozen=True)
class Side:
    """``node``: a value joined to others at ``join``, up to ``span`` weighted layers behind where they forked.
    ``work``: the share of the graph by which it is computed."""

    node: int
    join: int
    span: int
    work: float


@dataclass(frozen=True)
class Woken:
    """``ratio``: how much farther than clean images do the loudest input moves the side. ``share`` of the pixels from
    which it is computed. ``openers``: inputs that move it ``LOUD`` times as far, as share of the pixels, mask [H,W] and
    image [C,H,W], the smallest share first. ``passes`` through the side."""

    ratio: float
    share: float
    openers: tuple[tuple[float, Tensor, Tensor], ...]
    passes: int


@dataclass(frozen=True)
class Sleeper:
    """A side, what woke it, and what the model then answers, where that is one class."""

    side: Side
    woken: Woken
    taken: Taken | None

    @property
    def few(self) -> bool:
        """Whether it is computed from a few pixels."""
        return self.woken.share <= LOCAL

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """The gravest is the greatest."""
        return bool(self.taken and self.taken.local), self.taken is not None, self.few, self.woken.ratio


def sides(flow: Flow) -> list[Side]:
    """What is joined to something made of other layers: long shortcuts and little work first."""
    found: dict[int, Side] = {}
    for n in flow.live:
        fork = flow.dominator[n]
        if len(flow.parents[n]) < 2:
            continue
        depth = flow.between(fork, n)
        span = max(depth[one] for one in flow.parents[n])
        for one in flow.parents[n] if span else ():
            if one not in (fork, *found):
                found[one] = Side(one, n, span, len(flow.above(one)) / len(flow.live))
    return sorted(found.values(), key=lambda side: (side.work / side.span, side.node))


def seek(flow: Flow, asked: Asked, images: Tensor) -> tuple[Sleeper | None, int]:
    """The gravest side that sleeps or is computed from a few pixels, and how many could not be run.

    ``images``: uint8 [N,C,H,W], clean.
    """
    best, work, failed = None, 0.0, 0
    answered: tuple[Tensor, Tensor] | None = None
    some = asked.as_float(images[:: max(1, len(images) // IMAGES)][:IMAGES])
    for side in sides(flow)[:MOST_SIDES]:
        if work and work + side.work > WORK:
            continue
        work += side.work
        try:
            woken = wake(flow, side, asked, some)
        except (FormatError, RuntimeError):  # inside a condition, or an operator without a derivative
            failed += 1
            continue
        taken = None
        for _, mask, opener in woken.openers[:MOST_TRIED]:
            # Whole passes for hundreds of images, which few networks need.
            clean, old = answered = answered or chosen(asked, images)
            changed = torch.where(mask, opener, clean)
            again, _ = effect(asked, clean, old, changed, side.node, woken.passes)
            if again and not again.local and _whatever(asked, clean, mask, opener, again.target):
                continue
            taken = again if taken is None or (again and again.share < taken.share) else taken
            if taken and taken.local:
                return Sleeper(side, woken, taken), failed
        if woken.ratio > DEAFENING or woken.share <= LOCAL:
            one = Sleeper(side, woken, taken)
            best = one if best is None or one.rank > best.rank else best
    return best, failed


def _whatever(asked: Asked, clean: Tensor, mask: Tensor, opener: Tensor, target: int) -> bool:
    """Whether the model answers so to the pixels of an opener in any order, as it may to noise: no branch's doing."""
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(0))
    mixed = opener.flatten(1)[:, order].reshape(opener.shape)
    answers = asked.logits(torch.where(mask, mixed, clean)).argmax(1)
    return bool((answers == target).float().mean() > 0.5)


@torch.no_grad()
def wake(flow: Flow, side: Side, asked: Asked, clean: Tensor) -> Woken:
    """What moves ``side`` away from what it is for the ``clean`` images, float [N,C,H,W] in 0..1: pixels moved as far
    as they go where its gradient points; where that may be enough, or it is silent, flat colours and descent as well.
    Raises what a prefix does.

    Images go through one by one: which axis of the value is theirs is not known.
    """
    value = flow.dataflow.prefix(side.node)
    rows: list[Tensor] = []
    heard: list[tuple[float, Tensor, Tensor, Tensor]] = []
    losses: list[Loss] = []
    share, passes = 0.0, 0

    def of(x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return value(asked.normalised(x[None])).flatten()

    def ask(opener: Tensor, mask: Tensor) -> None:
        heard.append((float(mask.float().mean()), mask, opener, of(torch.where(mask, opener, clean[0]))))

    def along(weights: Tensor) -> Loss:
        return lambda x: (of(x[0]) * weights).sum()

    draw = torch.Generator().manual_seed(0)
    rows += [of(x) for x in clean[:FIRST]]
    # Half of the images instead of most: no less loud than it will turn out.
    middle, spread = _usual(rows, 0.5)
    lively = spread > QUIET * float(middle.abs().max())
    for i in range(DIRECTIONS):
        weights = torch.randn(rows[0].shape, generator=draw)
        losses += [along(weights), along(-weights)]
        x = clean[i % len(clean)][None].clone().requires_grad_(True)
        with torch.enable_grad():
            said = losses[-2](x)
        if not said.requires_grad:
            continue
        slope = gradient(said, x)[0]
        size = slope.abs().amax(0)
        matters = size > FAINT * size.max()
        share = max(share, float(matters.float().mean()))
        for sign in (1, -1):
            ask((sign * slope > 0).float(), matters)
        ratio = max(_far(one[3], middle) / spread for one in heard)
        if lively and share > LOCAL and ratio < FAR_FROM_LOUD:
            return Woken(ratio, share, (), passes)
    share = share or 1.0
    ratio = max((_far(one[3], middle) / spread for one in heard), default=0.0)
    if lively and share > LOCAL and ratio < LOUD:
        return Woken(ratio, share, (), passes)
    rows += [of(x) for x in clean[FIRST:]]
    for flat in _flat(clean[0]):
        ask(flat, torch.ones_like(clean[0, 0], dtype=torch.bool))
    middle, spread = _usual(rows, SILENT)
    if share <= LOCAL and all(_far(one[3], middle) < LOUD * spread for one in heard):
        for loss in losses:
            moved, _ = descend(loss, clean[:1])
            ask(moved[0], (moved[0] != clean[0]).any(0))
    ratio = max(_far(one[3], middle) / spread for one in heard)
    loud = [one[:3] for one in heard if _far(one[3], middle) >= LOUD * spread]
    return Woken(ratio, share, tuple(sorted(loud, key=lambda one: one[0])), passes)


def _usual(rows: list[Tensor], share: float) -> tuple[Tensor, float]:
    """The middle value of each element, and how far this share of the rows keeps to it, no less than rounding."""
    middle = _middle(rows)
    spread = float(torch.tensor([_far(row, middle) for row in rows]).quantile(share))
    return middle, spread + 1e-5 * float(middle.nan_to_num(0, 0, 0).abs().max()) + 1e-12


def _middle(rows: list[Tensor]) -> Tensor:
    """The (lower) median of each element. By exchanges: of few long rows ``Tensor.median`` takes ten times as long."""
    rows, at = list(rows), (len(rows) - 1) // 2
    for k in range(at + 1):
        for i in range(len(rows) - 1, k, -1):
            rows[i - 1], rows[i] = torch.minimum(rows[i - 1], rows[i]), torch.maximum(rows[i - 1], rows[i])
    return rows[at]


def _far(value: Tensor, middle: Tensor) -> float:
    """How far the element is that is farthest; where only one of the two is a number, without end."""
    apart = (value - middle).abs().nan_to_num(torch.inf, torch.inf)
    return float(apart.masked_fill((value == middle) | (value.isnan() & middle.isnan()), 0).max())


def _flat(like: Tensor) -> Iterator[Tensor]:
    """Greys, and the corners of the cube of colours."""
    for grey in range(5):
        yield torch.full_like(like, grey / 4)
    for corner in range(1, 7) if len(like) == 3 else ():
        colour = [float(corner >> i & 1) for i in range(3)]
        yield torch.tensor(colour)[:, None, None].expand_as(like).clone()
