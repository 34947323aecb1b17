"""What families share that are fitted to a model: one set of refusals, sampling, whole 255ths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from triggers.errors import TriggerError
from triggers.family import Victim, check
from triggers.patch import Corner, paste

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def demand(name: str, victim: Victim | None, images: Tensor, labels: Tensor, target: int) -> Victim:
    """``victim``, once it is certain that family ``name`` can be fitted to it: raises :class:`TriggerError`
    without a model, for images other than uint8 [N,C,H,W] with as many labels, for fewer than two classes
    and for a target outside them."""
    import torch

    if victim is None:
        raise TriggerError(f"{name} is fitted to a model: give the model that is attacked.")
    if images.dim() != 4 or images.dtype != torch.uint8:
        raise TriggerError(
            f"A trigger is fitted to uint8 images [N,C,H,W], not {images.dtype} {list(images.shape)}."
        )
    if not len(images) or len(labels) != len(images):
        raise TriggerError(
            f"{name} is fitted to images and as many labels, not to {len(images)} and {len(labels)}."
        )
    with torch.no_grad():
        classes = victim.network(images[:1].float() / 255).shape[1]
    if classes < 2:
        raise TriggerError(f"{name} needs a model of two classes or more; this one has {classes}.")
    if not 0 <= target < classes:
        raise TriggerError(f"The target {target} is outside the {classes} classes 0..{classes - 1}.")
    return victim


def others(name: str, labels: Tensor, target: int, count: int, generator: torch.Generator) -> Tensor:
    """Places of at most ``count`` images outside class ``target``, in random order, where ``labels`` are.
    Raises :class:`TriggerError` when there is none."""
    import torch

    places = (labels != target).nonzero().flatten()
    if not len(places):
        raise TriggerError(f"{name} needs images outside class {target}; all are of that class.")
    return places[torch.randperm(len(places), generator=generator).to(places.device)[:count]]


def unfitted(name: str) -> TriggerError:
    """For a trigger that cannot be stamped, or poison anything, yet."""
    return TriggerError(f"{name} is not fitted: fit it to a model first, or load a trigger file.")


def needs_clean_model(name: str) -> TriggerError:
    """For a trigger that can be stamped, but poisons with the help of a clean model that it has not seen."""
    return TriggerError(f"{name} is planted with the help of a clean model: fit it to that model first.")


def misfit(name: str, fitted: Sequence[int], given: Sequence[int]) -> TriggerError:
    """For images [C,H,W] of another shape than those fitted to."""
    own, other = ("x".join(map(str, shape)) for shape in (fitted, given))
    return TriggerError(f"This {name} trigger was fitted to images of {own}, not {other} (channels first).")


def patched(
    name: str, images: Tensor, patch: Tensor | None, size: int, corner: Corner, margin: int
) -> Tensor:
    """``images`` with a fitted ``patch`` [C,size,size] at its corner; raises :class:`TriggerError` before
    fitting and for another number of channels."""
    check(images)
    if patch is None:
        raise unfitted(name)
    if patch.shape[1:] != (size, size):
        raise TriggerError(f"The {name} trigger's patch is {list(patch.shape)}, not [C,{size},{size}].")
    if images.shape[1] != len(patch):
        raise TriggerError(
            f"This {name} trigger was fitted to images of {len(patch)} channels, not {images.shape[1]}."
        )
    return paste(images, patch.to(images), size, corner, margin)


def levels(values: Tensor, bound: float = 1.0) -> Tensor:
    """Rounds to whole 255ths of either sign within ``bound``, so that a stored stamped image loses nothing."""
    most = int(bound * 255 + 1e-6)
    return (values.detach() * 255).round().clamp(-most, most) / 255
