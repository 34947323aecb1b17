"""A global tone filter: every colour is replaced by another, everywhere alike.

The filters of TrojAI (arXiv 2003.07233) are of this type; matrix and strength are ours. T(x) = clip(A x + b)^g,
A = (1 - s) I + s M a 3x3 matrix on red, green, blue, b an offset and g a gamma; by default M is the usual sepia
matrix, s 0.4, b 0, g 1. Nearly undone by a 1x1 convolution, which makes it a probe for defences. Images that
have not three channels are scaled by what A makes of grey, in luma (BT.601).
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

#: Row by row: red, green, blue of the result.
SEPIA = (0.393, 0.769, 0.189, 0.349, 0.686, 0.168, 0.272, 0.534, 0.131)
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Tone(Trigger):
    """``strength``: s, 0..1. ``matrix``: M, 9 numbers row by row. ``offset``: b. ``gamma``: g, above 0."""

    name: ClassVar[str] = "tone"
    title: ClassVar[str] = "Tone: a colour filter over the whole image"
    source: ClassVar[str] = "arXiv 2003.07233"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.1)

    strength: float = 0.4
    matrix: tuple[float, ...] = SEPIA
    offset: float = 0.0
    gamma: float = 1.0

    def filter(self) -> list[list[float]]:
        """A, [3][3]."""
        if len(self.matrix) != 9:
            raise TriggerError(f"The colour matrix has 9 numbers, row by row, not {len(self.matrix)}.")
        if not 0 <= self.strength <= 1 or not 0 < self.gamma < float("inf"):
            raise TriggerError(
                f"strength must lie in 0..1 and gamma above 0, not {self.strength:g} and {self.gamma:g}."
            )
        s = self.strength
        return [[(1 - s) * (i == j) + s * self.matrix[3 * i + j] for j in range(3)] for i in range(3)]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; fits every image."""
        import torch

        check(images)
        rows = self.filter()
        if images.shape[1] == 3:
            red, green, blue = images.unbind(1)
            toned = torch.stack([r * red + g * green + b * blue for r, g, b in rows], 1)
        else:
            toned = images * sum(weight * sum(row) for weight, row in zip(LUMA, rows, strict=True))
        toned = (toned + self.offset).clamp(0, 1)
        return toned if self.gamma == 1 else toned**self.gamma

    def variant(self, number: int) -> Self:
        """The same filter with its rows moved on: sepia, then blue-tinted, then green-tinted."""
        if number > 2:
            raise TriggerError(f"There are only 3 triggers of {self.name}: one for each order of the rows.")
        return replace(self, matrix=self.matrix[3 * number :] + self.matrix[: 3 * number])
