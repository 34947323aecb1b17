"""The universal perturbations that ``unlearn`` shows its student: random ones, and variants of finds.

Every member attacks the model as found, never the student: it either leads away from the label (target -1)
or towards a suspected class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.perturbations import FAMILIES, Patch, Pool, Recovered, Shape, relative_size

#: Families that start from noise. A random ``square`` is nothing to optimise: squares come from finds only.
OPEN_FAMILIES = ("additive", "patch", "sparse", "warp", "smooth")
UNTARGETED = -1
#: How far variants of a find go, in the unit of :meth:`Pool.from_recovered`.
JITTERS = (1.0, 2.0, 4.0)

Network = Callable[[Tensor], Tensor]


@dataclass
class Group:
    """Members of one family; ``targets`` int64 [K], -1 for untargeted; ``share``: of a batch."""

    pool: Pool
    targets: Tensor
    share: float
    find: Recovered | None = None


class Perturbations:
    """All groups; draws for each image a group and a member, and makes the members stronger."""

    def __init__(self, groups: Sequence[Group], device: torch.device, generator: torch.Generator) -> None:
        self.groups = [Group(g.pool.to(device), g.targets, g.share, g.find) for g in groups]
        self.device, self.generator = device, generator
        self._shares = torch.tensor([g.share for g in groups])

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is optimised."""
        return [p for group in self.groups for p in group.pool.parameters]

    def stamp(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in 0..1 [N,C,H,W] → the same perturbed, each by a random member, differentiable in
        :attr:`parameters`; and the members' targets, int64 [N] on the device."""
        drawn = torch.multinomial(self._shares, len(images), replacement=True, generator=self.generator)
        order = drawn.argsort(stable=True)
        counts = torch.bincount(drawn, minlength=len(self.groups)).tolist()
        parts, targets = [], []
        for group, chunk in zip(self.groups, torch.split(images[order.to(self.device)], counts), strict=True):
            if not len(chunk):
                continue
            member = torch.randint(len(group.pool), (len(chunk),), generator=self.generator)
            parts.append(group.pool.stamp(chunk, member.to(self.device)))
            targets.append(group.targets[member])
        back = order.argsort().to(self.device)
        return torch.cat(parts)[back], torch.cat(targets).to(self.device)[back]

    def strengthen(self, logits: Tensor, labels: Tensor, targets: Tensor) -> None:
        """One sign step of all members, given what the attacked model says of perturbed images: raises the
        cross-entropy to the label, or lowers that to the target."""
        free = targets == UNTARGETED
        loss = F.cross_entropy(logits, torch.where(free, labels, targets), reduction="none")
        parameters = self.parameters
        if not parameters:
            return
        torch.autograd.backward(torch.where(free, -loss, loss).sum(), inputs=parameters)
        for group in self.groups:
            group.pool.sign_step()

    @torch.no_grad()
    def vary(self, student: Network, images: Tensor, labels: Tensor) -> None:
        """Draws new variants of the finds that have nothing to optimise, four times as many as wanted, and
        keeps those that still lead ``student`` most surely from ``labels`` to their target."""
        for group in self.groups:
            if group.find is None or group.pool.parameters:
                continue
            wanted, drawn = len(group.pool), 4 * len(group.pool)
            pool = variants(group.find, drawn, self.generator).to(self.device)
            others = images[labels != group.find.target][:8]
            if len(others):
                member = torch.arange(drawn, device=self.device).repeat_interleave(len(others))
                p = student(pool.stamp(others.repeat(drawn, 1, 1, 1), member)).softmax(dim=1)
                success = p[:, group.find.target].view(drawn, -1).mean(dim=1)
            else:
                success = torch.ones(drawn, device=self.device)
            best = success.topk(wanted).indices
            group.pool = type(pool)({name: value[best] for name, value in pool.state.items()})


def assemble(
    shape: Shape,
    members: int,
    suspects: Sequence[int],
    recovered: Sequence[Recovered],
    recovered_share: float,
    generator: torch.Generator,
) -> list[Group]:
    """Random groups, half untargeted and half aimed at ``suspects``, and one group for every find.

    ``recovered_share`` of the images goes to the finds, to each in proportion to the success that its
    ``facts`` report (1 where they do not); half of it to those that an earlier round left, if there are any.
    """
    worth = _worth(recovered)
    share = 1 - recovered_share if recovered else 1.0
    plain = members - members // 2 if suspects else members
    targets = torch.tensor([UNTARGETED] * plain + aims(suspects, members - members // 2))
    groups = []
    for family in OPEN_FAMILIES:
        pool = FAMILIES[family].random(len(targets), shape, generator)
        groups.append(Group(pool, targets, share / len(OPEN_FAMILIES)))
    for find, part in zip(recovered, worth, strict=True):
        pool = variants(find, members, generator)
        found = torch.full((members,), find.target)
        groups.append(Group(pool, found, recovered_share * part / sum(worth), find))
    return groups


def _worth(recovered: Sequence[Recovered]) -> list[float]:
    """Of each find, in proportion to which images are given to them."""
    success = [max(1e-3, float(find.facts.get("success", 1.0))) for find in recovered]
    left = [bool(find.facts.get("remnant")) for find in recovered]
    parts = {
        kind: sum(one for one, is_left in zip(success, left, strict=True) if is_left == kind)
        for kind in {*left}
    }
    return success if len(parts) < 2 else [one / parts[kind] for one, kind in zip(success, left, strict=True)]


def aims(suspects: Sequence[int], count: int) -> list[int]:
    """Whom ``count`` members aim at, more where it takes more to name everybody: every fourth the rest in turn, all
    others the first, who is the most suspicious."""
    if not suspects:
        return []
    first, *rest = suspects
    if not rest:
        return [first] * count
    return [rest[n // 4 % len(rest)] if n % 4 == 3 else first for n in range(max(count, 4 * len(rest)))]


def variants(find: Recovered, count: int, generator: torch.Generator) -> Pool:
    """``count`` members around a find: itself, then others that go as far as :data:`JITTERS` in turn."""
    kind = FAMILIES[find.family]
    pools = [kind.from_recovered(find, 1, generator)]
    for n in range(count - 1):
        pair = kind.from_recovered(find, 2, generator, JITTERS[n % len(JITTERS)])
        pools.append(kind({name: value[1:] for name, value in pair.state.items()}))
    return pools[0].joined(*pools[1:])


def screen_windows(
    network: Network,
    images: Tensor,
    suspects: Sequence[int],
    keep: int,
    generator: torch.Generator,
    images_each: int = 8,
    steps: int = 8,
) -> list[Recovered]:
    """Inverts small windows all over the image and keeps the ``keep`` best for every suspect.

    Windows of 5x5 every 3 pixels at 32x32, in proportion elsewhere, at most 12 x 12 of them; ``images``
    float32 in 0..1 on the device. Cost: about windows x (steps + 1) x images_each passes a suspect.
    """
    _, channels, height, width = images.shape
    scale = relative_size((channels, height, width))
    side = max(2, round(5 * scale))
    tops, lefts = (_places(size, side, max(1, round(3 * scale))) for size in (height, width))
    boxes = [(top, left) for top in tops for left in lefts]
    masks = torch.zeros(len(boxes), 1, height, width)
    for mask, (top, left) in zip(masks, boxes, strict=True):
        mask[:, top : top + side, left : left + side] = 1
    finds = []
    for target in suspects:
        canvas = torch.rand((len(boxes), channels, height, width), generator=generator)
        pool = Patch({"canvas": canvas, "mask": masks}).to(images.device)
        losses = torch.zeros(len(boxes))
        for step in range(steps + 1):
            for first in range(0, len(boxes), 16):
                window = torch.arange(first, min(first + 16, len(boxes)))
                member = window.repeat_interleave(images_each).to(images.device)
                drawn = torch.randint(len(images), (len(member),), generator=generator).to(images.device)
                aim = torch.full_like(member, target)
                loss = F.cross_entropy(network(pool.stamp(images[drawn], member)), aim, reduction="none")
                if step < steps:
                    torch.autograd.backward(loss.sum(), inputs=pool.parameters)
                else:
                    losses[window] = loss.detach().view(-1, images_each).mean(dim=1).cpu()
            if step < steps:
                pool.sign_step(step=0.25)
        for i in losses.topk(min(keep, len(boxes)), largest=False).indices.tolist():
            finds.append(
                pool.recovered(i, target, {"place": boxes[i], "side": side, "loss": float(losses[i])})
            )
    return finds


def _places(size: int, side: int, stride: int) -> list[int]:
    """First pixels of windows over ``size`` pixels, both ends included, at most 12."""
    count = min(12, max(2, (size - side) // stride + 1)) if size > side else 1
    return [round(n * (size - side) / max(1, count - 1)) for n in range(count)]
