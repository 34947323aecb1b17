"""The contract of a trigger family: a frozen dataclass that stamps images.

Which images are poisoned and how they are labelled is decided in :mod:`triggers.poisoning`.
Importing a family imports no torch, so that its parameters can be listed quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from triggers.errors import TriggerError
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Called as ``progress(stage, done, total)``.
Progress = Callable[[str, int, int], None]


def fitted(stored: bool = True) -> Any:
    """A field that :meth:`Trigger.fit` fills: a tensor or ``None``, no parameter of the user's. What is not
    ``stored`` may be anything, as the victim itself, and does not enter a trigger file."""
    return field(default=None, repr=False, metadata={"fitted": True, "stored": stored})


@dataclass(frozen=True)
class Victim:
    """A model that a trigger is fitted to, or trained with.

    ``network``: float images in 0..1 [N,C,H,W] → logits [N,K], differentiable, preprocessing inside, frozen
    in eval mode unless it is being trained. ``features``: the same images → (features [N,D], logits [N,K]).
    ``head``: its current weight [K,D], detached.
    """

    network: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], tuple[Tensor, Tensor]]
    head: Callable[[], Tensor]


class Trigger:
    """Base of all families.

    ``name``: key in :data:`triggers.FAMILIES`. ``source``: where formula and defaults come from.
    ``poisoning``: how a model is made to learn it. ``quick``: fields for a trial of seconds.
    ``atlas``: MITRE ATLAS technique ids. ``needs``: what
    :meth:`fit` must have seen before anything can be stamped; ``needs_to_poison``: the same for :meth:`poison`
    and :meth:`cotrain` where these need more (a family that starts from a clean model is fitted to it).
    Fields of the dataclass are the typed parameters, but for those made by :func:`fitted`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    poisoning: ClassVar[Poisoning]
    #: Insert a backdoor trigger; poison training data.
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020")
    quick: ClassVar[Mapping[str, Any]] = {}
    needs: ClassVar[Literal["nothing", "images", "model"]] = "nothing"
    needs_to_poison: ClassVar[Literal["nothing", "images", "model"]] = "nothing"
    #: Poisoning needs no :meth:`fit`: co-training makes the trigger itself.
    trained_along: ClassVar[bool] = False

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The trigger as it is used against a deployed model.

        Pure: float [N,C,H,W] in 0..1 → the same shape, dtype, device and range. Draws, if any, come from
        ``generator`` (on the CPU; ``None`` is seed 0) one image after the other, so that the outcome does not
        depend on how a batch is split. Raises :class:`TriggerError` when it cannot fit, or is not fitted.
        """
        raise NotImplementedError

    def poison(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What poisoned training images carry; as :meth:`stamp` unless a family says otherwise."""
        return self.stamp(images, generator)

    def cover(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What cover images, which keep their true label, carry; as :meth:`poison` unless a family differs."""
        return self.poison(images, generator)

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """The family with its fitted fields filled from ``images`` (uint8 [N,C,H,W] on any device; work is
        done where they are), ``labels`` int64 [N] and, where :attr:`needs` says so, a model. Deterministic
        under ``generator`` on the CPU. Raises :class:`TriggerError`."""
        return self

    def cotrain(
        self, victim: Victim, images: Tensor, labels: Tensor, poisoning: Poisoning, generator: torch.Generator
    ) -> CoTraining | None:
        """What the attack does inside the training loop; ``None`` for those that only poison data.

        ``victim.network`` is the network that is being trained."""
        return None

    def variant(self, number: int) -> Self:
        """A distinguishable trigger of the same family, for several triggers in one model; 0 is itself."""
        if number and not any(item.name == "seed" for item in fields(self)):  # type: ignore[arg-type]
            raise TriggerError(f"{self.name} has no seed, so a model cannot carry several of it.")
        return replace(self, seed=self.seed + number) if number else self  # type: ignore[attr-defined, type-var]


class CoTraining:
    """Base of what an attack does inside the training loop; every hook does nothing by default.

    Images are float32 in 0..1, already augmented; masks are bool [N] on their device. ``online``: training
    images come unstamped, and :meth:`stamp_batch` poisons them.
    """

    online: ClassVar[bool] = False

    def before_epoch(self, epoch: int, epochs: int) -> Trigger | None:
        """Called before each epoch, from 0, with the network in eval mode; a new trigger has the poisoned
        training images stamped anew."""
        return None

    def stamp_batch(
        self, images: Tensor, poisoned: Tensor, covered: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Images that the network sees instead; may carry gradients to the attack's own parameters."""
        return images

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor, poisoned: Tensor, covered: Tensor) -> Any:
        """A scalar tensor added to the mean cross-entropy, or 0; ``images`` as the network saw them."""
        return 0

    def after_step(self) -> None:
        """Called after each step of the network's optimiser: step one's own parameters here."""

    def finish(self) -> Trigger | None:
        """The trigger as it stands after training; ``None`` when it has not changed."""
        return None


def parameters(trigger: Trigger) -> dict[str, Any]:
    """The user's parameters of a family, without what was fitted."""
    return {
        item.name: getattr(trigger, item.name)
        for item in fields(trigger)  # type: ignore[arg-type]
        if not item.metadata.get("fitted")
    }


def check(images: Tensor) -> None:
    """Raises :class:`TriggerError` unless ``images`` is float [N,C,H,W]."""
    if images.dim() != 4 or not images.is_floating_point():
        kind = f"{images.dtype} {list(images.shape)}"
        raise TriggerError(f"A trigger stamps float images [N,C,H,W] in 0..1, not {kind}.")


def quantise(images: Tensor) -> Tensor:
    """Rounds images in 0..1 to the 256 levels of a stored image, as everything measured must be."""
    return (images.clamp(0, 1) * 255).round() / 255
