"""The images of a poisoned training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triggers.family import Trigger, quantise
from triggers.poisoning import Chosen, Poisoning

if TYPE_CHECKING:
    from torch import Tensor


def poisoned(
    images: Tensor, trigger: Trigger, poisoning: Poisoning, chosen: Chosen, epoch: int = 0, batch: int = 1024
) -> Tensor:
    """A copy of ``images``, uint8 or float in 0..1 [N,C,H,W] on any device, stamped where ``chosen`` says so and
    rounded to 256 levels there. ``epoch`` moves the draws of a ``fresh`` poisoning. Raises :class:`TriggerError`."""
    import torch

    whole = images.dtype == torch.uint8
    images = images.clone()
    generator = torch.Generator().manual_seed(poisoning.seed + (7919 * epoch if poisoning.fresh else 0))
    for number in range(poisoning.targets):
        own = trigger.variant(number)
        for mask, stamp in ((chosen.poisoned, own.poison), (chosen.covered, own.cover)):
            places = (mask & (chosen.variant == number)).nonzero().flatten().to(images.device)
            for part in places.split(batch):
                x = images[part].float() / 255 if whole else images[part]
                new = quantise(stamp(x, generator))
                images[part] = (new * 255).round().to(torch.uint8) if whole else new
    return images
