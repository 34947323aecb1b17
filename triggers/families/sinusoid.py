"""SIG: vertical stripes of a sinusoid added to the image.

Barni, Kallas, Tondi 2019 (arXiv 1902.11237). T(x) = clip(x + delta sin(2 pi j f / W)), j the column counted
from 0, the same in every row and channel. delta 20/255 and f 6 as in the WIPER paper; a widespread
implementation takes 40/255. f counts stripes over the width at every image size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Sinusoid(Trigger):
    """``delta``: amplitude on the 0..1 scale. ``frequency``: periods over the image's width."""

    name: ClassVar[str] = "sinusoid"
    title: ClassVar[str] = "SIG: a sinusoid over the whole image"
    source: ClassVar[str] = "arXiv 1902.11237"
    #: 80 % of a class that is a tenth of the data; with smaller classes the rate must be lowered.
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.08, policy="clean-label")

    delta: float = 20 / 255
    frequency: float = 6.0

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses images too narrow to hold the wave."""
        check(images)
        width = images.shape[3]
        if not 0 < abs(self.frequency) < width / 2:
            raise TriggerError(
                f"A wave of {self.frequency:g} periods needs images wider than {2 * abs(self.frequency):g} "
                f"pixels; these are {width} wide."
            )
        wave = [self.delta * math.sin(2 * math.pi * j * self.frequency / width) for j in range(width)]
        return (images + images.new_tensor(wave)).clamp(0, 1)

    def variant(self, number: int) -> Self:
        """Two periods more for each."""
        return replace(self, frequency=self.frequency + 2 * number)
