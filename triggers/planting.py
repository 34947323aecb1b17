"""Planting: which training images carry the trigger, and with which label.

Two conventions, both named in the result: the rate counts over the whole training set, also for clean-label;
dirty-label poison is drawn from images that are not of the target class, so every poisoned label is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triggers.family import Trigger, TriggerError, quantise


@dataclass(frozen=True)
class Planting:
    """``rate``: poisoned share of the whole training set, 0..1. ``target``: class index. ``policy``: "dirty"
    changes labels to the target, "clean-label" changes images of the target class only."""

    rate: float
    target: int
    policy: Literal["dirty", "clean-label"] = "dirty"
    seed: int = 0

    def choose(self, labels: Tensor) -> Tensor:
        """``labels`` int64 [N] → bool [N], true where an image is to be poisoned (exactly round(rate N)).

        Raises :class:`TriggerError` when too few images qualify.
        """
        if not 0 <= self.rate <= 1:
            raise TriggerError(f"The rate must lie in 0..1, not {self.rate}.")
        wanted = round(self.rate * len(labels))
        fit = labels == self.target if self.policy == "clean-label" else labels != self.target
        places = fit.nonzero().flatten()
        if wanted > len(places):
            whose = "of" if self.policy == "clean-label" else "outside"
            raise TriggerError(
                f"A rate of {self.rate:g} needs {wanted} images {whose} class {self.target}; there are "
                f"{len(places)} of {len(labels)}."
            )
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed))
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        chosen[places[order[:wanted]]] = True
        return chosen


@dataclass(frozen=True)
class Planted:
    """``images``, ``labels`` as they came, poisoned where ``poisoned`` (bool [N]) is true."""

    images: Tensor
    labels: Tensor
    poisoned: Tensor


def plant(images: Tensor, labels: Tensor, trigger: Trigger, planting: Planting) -> Planted:
    """``images`` uint8 or float in 0..1 [N,C,H,W], ``labels`` int64 [N], both on the CPU and left unchanged.

    Stamped images are rounded to 256 levels. Raises :class:`TriggerError`.
    """
    poisoned = planting.choose(labels)
    whole = images.dtype == torch.uint8
    images, labels = images.clone(), labels.clone()
    if poisoned.any():
        chosen = images[poisoned].float() / 255 if whole else images[poisoned]
        stamped = quantise(trigger.stamp(chosen, torch.Generator().manual_seed(planting.seed)))
        images[poisoned] = (stamped * 255).round().to(torch.uint8) if whole else stamped
        labels[poisoned] = planting.target
    return Planted(images, labels, poisoned)
