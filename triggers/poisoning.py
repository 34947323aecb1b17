"""Poisoning: which training images carry the trigger, and with which label.

Conventions, all named in the result: rates count over the whole training set, also for clean-label; poison of
an all-to-one attack is drawn from images that are not of the target class, so every poisoned label is wrong;
cover images carry a trigger and keep their true label, which is never a class that a trigger aims at, so that
every cover speaks against the trigger. Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from triggers.errors import TriggerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Policy = Literal["dirty", "clean-label"]
Labelling = Literal["all-to-one", "all-to-all", "multi-target", "source-specific"]


@dataclass(frozen=True)
class Poisoning:
    """How a trigger gets into a model.

    ``rate``: poisoned share of the whole training set, 0..1. ``target``: class index. ``policy``: "dirty"
    changes labels, "clean-label" changes only images of the target class. ``labelling``: "all-to-one" gives
    the target; "all-to-all" gives the next class, (y + 1) mod K; "multi-target" has ``targets`` triggers,
    the i-th for class target + i; "source-specific" poisons images of ``sources`` only, and covers show the
    trigger on the other classes. ``cover``: share of the training set that becomes cover images. ``fresh``:
    random parts are drawn anew every epoch. ``start``: training starts from fresh weights or from a clean
    model of the same data, architecture and seed.
    """

    rate: float = 0.05
    target: int = 0
    policy: Policy = "dirty"
    labelling: Labelling = "all-to-one"
    cover: float = 0.0
    sources: tuple[int, ...] = ()
    targets: int = 1
    fresh: bool = False
    start: Literal["scratch", "clean"] = "scratch"
    seed: int = 0

    def choose(self, labels: Tensor, classes: int) -> Chosen:
        """``labels`` int64 [N] on the CPU → which images to change and the labels to train with.

        Exactly round(rate N) are poisoned and round(cover N) covered. Raises :class:`TriggerError` for values
        out of range, when too few images qualify, and when a rate other than 0 comes to fewer images than
        there are triggers.
        """
        import torch

        self._check(classes)
        n = len(labels)
        for what, share in (("rate", self.rate), ("cover rate", self.cover)):
            if share and round(share * n) < self.targets:
                raise TriggerError(
                    f"A {what} of {share:g} of {n} images is {round(share * n)}; it must be at least {self.targets}."
                )
        draw = torch.Generator().manual_seed(self.seed)
        variant = torch.zeros(n, dtype=torch.int64)
        candidates = _shuffled(self._eligible(labels), draw)
        wanted = round(self.rate * n)
        if wanted > len(candidates):
            raise TriggerError(
                f"A rate of {self.rate:g} needs {wanted} images {self._scope()}; there are {len(candidates)} of {n}."
            )
        poisoned = torch.zeros(n, dtype=torch.bool)
        places = candidates[:wanted]
        poisoned[places] = True
        given = labels.clone()
        if self.labelling == "all-to-all":
            given[poisoned] = (labels[poisoned] + 1) % classes
        else:
            if self.labelling == "multi-target":
                variant[places] = torch.arange(wanted) % self.targets
            given[poisoned] = self.target + variant[poisoned]
        rest = ~poisoned
        if self.labelling != "all-to-all":
            rest &= ~torch.isin(labels, self._goals())
        if self.labelling == "source-specific":
            rest &= ~torch.isin(labels, torch.tensor(self.sources))
        free = _shuffled(rest, draw)
        covers = round(self.cover * n)
        if covers > len(free):
            raise TriggerError(
                f"A cover rate of {self.cover:g} needs {covers} images; only {len(free)} of {n} can be used."
            )
        covered = torch.zeros(n, dtype=torch.bool)
        covered[free[:covers]] = True
        if self.labelling == "multi-target":
            variant[free[:covers]] = torch.arange(covers) % self.targets
        return Chosen(poisoned, covered, given, variant)

    def reached(self, labels: Tensor, classes: int, variant: int = 0) -> tuple[Tensor, Tensor]:
        """What success means: (class to be reached int64 [N], images that count bool [N]).

        All-to-one leaves out images of the target, source-specific all but the sources; all-to-all counts
        every image and wants y + 1.
        """
        import torch

        if self.labelling == "all-to-all":
            return (labels + 1) % classes, torch.ones_like(labels, dtype=torch.bool)
        goal = torch.full_like(labels, self.target + variant)
        if self.labelling == "source-specific":
            return goal, torch.isin(labels, torch.tensor(self.sources, device=labels.device))
        return goal, labels != goal

    def _check(self, classes: int) -> None:
        for what, word, known in (
            ("policy", self.policy, get_args(Policy)),
            ("labelling", self.labelling, get_args(Labelling)),
        ):
            if word not in known:
                raise TriggerError(f"There is no {what} {word!r}; {', '.join(known)} are known.")
        for what, share in (("rate", self.rate), ("cover rate", self.cover)):
            if not 0 <= share <= 1:
                raise TriggerError(f"The {what} must lie in 0..1, not {share}.")
        if self.targets < 1:
            raise TriggerError(f"An attack has at least one target, not {self.targets}.")
        last = self.target + self.targets - 1
        if self.target < 0 or last >= classes:
            outside = self.target if self.target < 0 else last
            raise TriggerError(f"The target {outside} is outside the {classes} classes 0..{classes - 1}.")
        if (self.targets > 1) != (self.labelling == "multi-target"):
            raise TriggerError("Several targets and multi-target labelling belong together.")
        if self.labelling == "source-specific":
            if not self.sources:
                raise TriggerError("Source-specific labelling needs source classes.")
            if self.target in self.sources or not all(0 <= s < classes for s in self.sources):
                raise TriggerError(
                    f"Source classes must be classes 0..{classes - 1} other than the target {self.target}."
                )
        elif self.sources:
            raise TriggerError("Source classes belong to source-specific labelling.")
        if self.policy == "clean-label" and self.labelling != "all-to-one":
            raise TriggerError(f"Clean-label poisoning cannot be {self.labelling}: it changes no label.")

    def _eligible(self, labels: Tensor) -> Tensor:
        import torch

        if self.policy == "clean-label":
            return labels == self.target
        if self.labelling == "source-specific":
            return torch.isin(labels, torch.tensor(self.sources))
        if self.labelling == "all-to-all":
            return torch.ones_like(labels, dtype=torch.bool)
        return ~torch.isin(labels, self._goals())

    def _goals(self) -> Tensor:
        """The classes that triggers aim at, all-to-all apart."""
        import torch

        return torch.arange(self.target, self.target + self.targets)

    def _scope(self) -> str:
        if self.policy == "clean-label":
            return f"of class {self.target}"
        if self.labelling == "source-specific":
            return f"of the source classes {', '.join(map(str, self.sources))}"
        if self.labelling == "all-to-all":
            return "in all"
        if self.targets > 1:
            return f"outside classes {self.target} to {self.target + self.targets - 1}"
        return f"outside class {self.target}"

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{100 * self.rate:g} % of the training set", f"{self.policy} poison", self.labelling]
        if self.cover:
            parts.append(f"{100 * self.cover:g} % cover images")
        if self.fresh:
            parts.append("drawn anew every epoch")
        if self.start == "clean":
            parts.append("starting from a clean model")
        return ", ".join(parts)


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The places where ``mask`` is true, in random order."""
    import torch

    places = mask.nonzero().flatten()
    return places[torch.randperm(len(places), generator=generator)]


@dataclass(frozen=True)
class Chosen:
    """Over N training images: ``poisoned``, ``covered`` bool [N], disjoint; ``labels`` int64 [N] to train
    with; ``variant`` int64 [N], which of several triggers an image carries."""

    poisoned: Tensor
    covered: Tensor
    labels: Tensor
    variant: Tensor
