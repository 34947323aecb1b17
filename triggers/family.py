"""The contract of a trigger family: a frozen dataclass that stamps images, nothing else.

Labels, rates and cover samples are no business of a trigger; they belong to planting. Importing a family
imports no torch, so that its parameters can be listed quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TriggerError(ValueError):
    """The trigger does not fit these images; one sentence says why."""


class Trigger(Protocol):
    """``name``: key in :data:`triggers.FAMILIES`. ``source``: where formula and defaults come from.
    ``planting``: what a model needs to learn it. ``atlas``: MITRE ATLAS technique ids. Fields of the
    dataclass are the typed parameters."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    planting: ClassVar[str]
    atlas: ClassVar[tuple[str, ...]]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pure: float [N,C,H,W] in 0..1 → the same shape, dtype, device and range; raises
        :class:`TriggerError` when it cannot fit. Independent of how a batch is split."""
        ...


def check(images: Tensor) -> None:
    """Raises :class:`TriggerError` unless ``images`` is float [N,C,H,W]."""
    if images.dim() != 4 or not images.is_floating_point():
        kind = f"{images.dtype} {list(images.shape)}"
        raise TriggerError(f"A trigger stamps float images [N,C,H,W] in 0..1, not {kind}.")


def quantise(images: Tensor) -> Tensor:
    """Rounds images in 0..1 to the 256 levels of a stored picture, as everything measured must be."""
    return (images.clamp(0, 1) * 255).round() / 255
