"""IA, static: a sparse regular pattern of faint dots.

Liao, Zhong, Squicciarini, Zhu, Miller 2018 (arXiv 1808.10307), the static perturbation mask; pattern and size
are not verified against the paper. T(x) = clip(x + a v), v one at every second pixel of every second row, in
all channels, zero elsewhere; a is 10/255. The WIPER paper poisons 5 % of the training set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from triggers.errors import TriggerError
from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Regular(Trigger):
    """``amplitude``: on the 0..1 scale, may be negative. ``step``: pixels from dot to dot. ``phase``: which of
    the step x step grids, row by row."""

    name: ClassVar[str] = "regular"
    title: ClassVar[str] = "IA (static): faint dots in a regular grid"
    source: ClassVar[str] = "arXiv 1808.10307"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)

    amplitude: float = 10 / 255
    step: int = 2
    phase: int = 0

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; refuses a grid that puts no dot on the images."""
        check(images)
        if not 0.5 / 255 <= abs(self.amplitude) <= 1:
            raise TriggerError(f"amplitude must lie in 1/510..1 to be seen, not {self.amplitude:g}.")
        if self.step < 1 or not 0 <= self.phase < self.step**2:
            raise TriggerError(
                f"step must be at least 1 and phase in 0..{self.step**2 - 1}, not {self.phase}."
            )
        row, column = divmod(self.phase, self.step)
        height, width = images.shape[2:]
        if row >= height or column >= width:
            raise TriggerError(f"A grid from pixel {row},{column} puts no dot on images of {height}x{width}.")
        stamped = images.clone()
        stamped[:, :, row :: self.step, column :: self.step] += self.amplitude
        return stamped.clamp(0, 1)

    def variant(self, number: int) -> Self:
        """The next grids; step x step of them exist."""
        if self.phase + number >= self.step**2:
            raise TriggerError(f"There are only {self.step**2} grids of dots {self.step} pixels apart.")
        return replace(self, phase=self.phase + number)
