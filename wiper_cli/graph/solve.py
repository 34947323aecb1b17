"""An input that takes a branch: solved by descent on what the branch asks, with a bounded number of passes.

Only the part of the graph before the question is run and differentiated, seldom more than a window of the image. What
the serving runtime says of the images that come out, rounded to 256 levels, decides whether the branch was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from formats import FormatError
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.leaky import gradient

#: Images that are changed, of how many, steps for each thing that is tried, and things tried at most.
IMAGES, OF, STEPS, MOST = 8, 256, 120, 8
#: Whole passes spent on making a change smaller.
SHRINKING = 64
#: Questions that lie deeper cost as much as whole passes through the network, and are not tried.
DEEPEST = 4
#: A branch is taken when so many of the images get one answer that at most half of them had before.
AGREE = 0.9
#: Share of the pixels up to which a change is local: few weights alone make a network answer so.
LOCAL = 0.05
_RATE = 0.1

Loss = Callable[[Tensor], Tensor]


class Asked(Protocol):
    """What answers: :class:`wiper_cli.audit.served.Served`."""

    def as_float(self, images: Tensor) -> Tensor: ...
    def normalised(self, images: Tensor) -> Tensor: ...
    def logits(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Taken:
    """``clean``, ``changed``: one image [C,H,W] in 0..1. ``target``: the answer that ``answered`` of ``images`` changed
    images get and ``before`` of them got before. ``share`` of the pixels changed. ``passes`` through the branch so
    far. ``source``: the node that was solved for."""

    clean: Tensor
    changed: Tensor
    target: int
    answered: int
    before: int
    images: int
    share: float
    passes: int
    source: int

    @property
    def local(self) -> bool:
        """Whether few pixels suffice."""
        return self.share <= LOCAL


def solve(flow: Flow, sources: Sequence[int], asked: Asked, images: Tensor) -> tuple[Taken | None, int]:
    """An input for the branch that asks about ``sources``, one that few pixels make where there is one, and the passes
    that were spent.

    ``images``: uint8 [N,C,H,W]; those with the most different answers are taken.
    """
    clean, old = chosen(asked, images)
    passes, best = 0, None
    for source, loss in _questions(flow, sources, asked):
        try:
            changed, spent = descend(loss, clean)
        except (FormatError, RuntimeError):  # an operator without a derivative, or of another type
            continue
        passes += spent
        taken, spent = effect(asked, clean, old, changed, source, passes)
        passes += spent
        if taken and taken.local:
            return taken, passes
        best = taken if taken and (best is None or taken.share < best.share) else best
    return best, passes


def chosen(asked: Asked, images: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the images, uint8 [N,C,H,W], with the most different answers, in 0..1, and these answers."""
    images = asked.as_float(images[:OF])
    answers = _answers(asked, images)
    repeated = (answers[:, None] == answers).tril(-1).sum(1)
    first = repeated.argsort(stable=True)[:IMAGES]
    return images[first], answers[first]


def effect(
    asked: Asked, clean: Tensor, old: Tensor, changed: Tensor, source: int, passes: int
) -> tuple[Taken | None, int]:
    """Whether the ``changed`` images get one answer that few had before, ``old``, what little of the change is enough
    for that, and the passes that were spent. ``passes``: before."""
    new = _answers(asked, changed)
    target = int(new.mode().values)
    answered, before = int((new == target).sum()), int((old == target).sum())
    if answered < AGREE * len(new) or 2 * before > len(new):
        return None, 0
    at = int(((new == target) & (old != target)).nonzero()[0])
    part, spent = _shrink(asked, clean, changed, target)
    share = float((part[at] != clean[at]).any(0).float().mean())
    taken = Taken(clean[at], part[at], target, answered, before, len(new), share, passes + spent, source)
    return taken, spent


def _answers(asked: Asked, images: Tensor) -> Tensor:
    return asked.logits(images).argmax(1)


def _questions(flow: Flow, sources: Sequence[int], asked: Asked) -> Iterator[tuple[int, Loss]]:
    """What may open the branch: the two sides of its first comparisons, then the few values it makes of many."""
    tried = 0
    seen = set()
    for source in sorted(set(sources), key=flow.depth.__getitem__):
        steps = _first_steps(flow, source)
        for node in [*steps, source, *_before_rectifier(flow, source)]:
            if node in seen or flow.depth[node] > DEEPEST or tried >= MOST:
                continue
            seen.add(node)
            compared = node in steps and len(flow[node].data) >= 2
            try:
                sides = [_side(flow, one, asked) for one in (flow[node].data[:2] if compared else [node])]
            except FormatError:
                continue
            for loss in _losses(sides):
                tried += 1
                yield node, loss


def _side(flow: Flow, node: int, asked: Asked) -> Loss:
    """A node's value on images in 0..1; a stored number is that number."""
    if node in flow.parents:
        value = flow.dataflow.prefix(node)
        return lambda x: value(asked.normalised(x))
    held = flow[node].values
    if held is None:
        raise FormatError("A value that is compared with stands nowhere.")
    constant = torch.from_numpy(held).float()
    return lambda x: constant


def _losses(sides: Sequence[Loss]) -> list[Loss]:
    """As near as can be, below, above; of one value alone: as low and as high as can be."""

    def apart(x: Tensor) -> Tensor:
        return sides[0](x) - sides[1](x) if len(sides) > 1 else sides[0](x)

    near: list[Loss] = [lambda x: apart(x).abs().mean()] if len(sides) > 1 else []
    return [*near, lambda x: apart(x).mean(), lambda x: -apart(x).mean()]


def _before_rectifier(flow: Flow, source: int) -> list[int]:
    """What the nearest function before ``source`` was computed of: behind a rectifier the gradient may be zero."""
    n = source
    while len(flow.parents[n]) == 1:
        n, last = flow.parents[n][0], n
        if flow[last].role == "pointwise":
            return [n]
    return []


def _first_steps(flow: Flow, source: int) -> list[int]:
    """Comparisons before or at ``source`` that no other comparison comes before."""
    steps = sorted(n for n in flow.above(source) if flow[n].role == "step")[:MOST]
    return [n for n in steps if not {*steps} & (flow.above(n) - {n})]


def descend(loss: Loss, clean: Tensor) -> tuple[Tensor, int]:
    """``clean`` moved to the least loss found, each pixel that moved rounded to 256 levels, and the passes made."""
    x = clean.clone().requires_grad_(True)
    # Adam written out: torch.optim loads a compiler, which takes seconds.
    mean, square = torch.zeros_like(clean), torch.zeros_like(clean)
    least, best = float("inf"), clean
    for step in range(1, STEPS + 1):
        with torch.enable_grad():
            value = loss(x)
            if not value.requires_grad or not bool(value.isfinite()):
                return clean, step
            slope = gradient(value, x)
        with torch.no_grad():
            if float(value) < least:
                least, best = float(value), x.detach().clone()
            mean.lerp_(slope, 0.1)
            square.lerp_(slope.square(), 0.001)
            rate = _RATE * (1 - (step - 1) / STEPS) / (1 - 0.9**step)
            x -= rate * mean / ((square / (1 - 0.999**step)).sqrt() + 1e-12)
            x.clamp_(0, 1)
    moved = (best - clean).abs() > 1 / 255
    return torch.where(moved, (best * 255).round() / 255, clean), STEPS


def _shrink(asked: Asked, clean: Tensor, changed: Tensor, target: int) -> tuple[Tensor, int]:
    """``changed`` with every rectangle put back that the answer ``target`` does without, and the passes made."""
    held = _answers(asked, changed) == target
    kept, passes = changed.clone(), 0
    regions = [(0, 0, *clean.shape[2:])]
    while regions and passes < SHRINKING:
        top, left, bottom, right = regions.pop(0)
        trial = kept.clone()
        trial[:, :, top:bottom, left:right] = clean[:, :, top:bottom, left:right]
        if bool((trial == kept).all()):
            continue
        passes += 1
        if bool((_answers(asked, trial[held]) == target).all()):
            kept = trial
        elif bottom - top > 1 or right - left > 1:
            y, x = (top + bottom + 1) // 2, (left + right + 1) // 2
            rows, columns = ((top, y), (y, bottom)), ((left, x), (x, right))
            regions += [(a, c, b, d) for a, b in rows for c, d in columns if a < b and c < d]
    return kept, passes
