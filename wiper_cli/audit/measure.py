"""What a model does with triggers, as rates with intervals (:mod:`wiper_cli.rates` says how each is counted).

Each trigger costs one forward pass, which serves all targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from triggers.errors import TriggerError
from triggers.family import Trigger, parameters, quantise
from wiper_cli import perturbations
from wiper_cli.classifier import Classifier
from wiper_cli.images import thumbnails
from wiper_cli.images.splits import Part
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress, silent
from wiper_cli.rates import Rate, corrected, count, effectiveness
from wiper_cli.verdict import Problem

Origin = Literal["built-in", "known", "fitted", "recovered", "poisoned folder"]
#: Name → image as a data URI, ``None`` where there is none.
Pictures = Mapping[str, str | None]


@dataclass(frozen=True)
class Stamper:
    """A trigger to be measured. ``stamp``: float32 [N,C,H,W] in 0..1 and a generator, at first of ``seed``, for
    what it draws → the same. ``target``: ``None`` to have it found. ``chosen_by``: who named the target."""

    family: str
    origin: Origin
    parameters: Mapping[str, Any]
    stamp: Callable[[Tensor, torch.Generator], Tensor]
    target: int | None = None
    chosen_by: str = ""
    seed: int = 0

    @classmethod
    def of(
        cls, trigger: Trigger, target: int | None = None, seed: int = 0, origin: Origin = "built-in"
    ) -> Stamper:
        """A family of :mod:`triggers`."""
        chosen_by = "" if target is None else "the user"
        return cls(trigger.name, origin, parameters(trigger), trigger.stamp, target, chosen_by, seed)

    @classmethod
    def recovered(cls, found: Recovered) -> Stamper:
        """What a detector recovered, with its own target."""
        return cls(
            found.family,
            "recovered",
            dict(found.facts),
            lambda images, _: perturbations.stamp(found, images),
            found.target,
            "the detector",
        )


@dataclass(frozen=True)
class Poisoned:
    """Images that carry a trigger already; ``part.labels`` are the true ones, -1 where unknown."""

    part: Part
    target: int
    path: str


@dataclass(frozen=True)
class TriggerRates:
    """What one trigger does; fields as in the report's schema. ``ra``: ``None`` without true labels.
    ``per_target``: ASR for every class."""

    family: str
    origin: Origin
    parameters: Mapping[str, Any]
    target: int
    target_chosen_by: str
    asr: Rate
    corrected_asr: float
    ra: Rate | None
    base_rate: Rate
    per_target: Sequence[float]
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Measurement:
    """Of one model on the same ``images`` for all triggers."""

    images: int
    acc: Rate
    triggers: Sequence[TriggerRates]


def measure(
    classifier: Classifier,
    part: Part,
    stampers: Sequence[Stamper] = (),
    poisoned: Sequence[Poisoned] = (),
    *,
    batch: int = 64,
    progress: Progress = silent,
) -> Measurement:
    """ACC of one model, and the rates of every trigger; works head-only.

    Triggered images are rounded to 256 levels before the model sees them. Raises :class:`Problem` when a
    trigger does not fit the images.
    """
    untriggered = _answers(classifier, part.images, None, batch)
    base = [count(untriggered, k, part.labels != k) for k in range(classifier.classes)]
    found: list[TriggerRates] = []
    total = len(stampers) + len(poisoned)
    for stamper in stampers:
        progress("verify", len(found), total)
        answers = _answers(classifier, part.images, stamper, batch)
        row = _rates(stamper, answers, part.labels, base)
        if (place := _example(answers, part.labels, row.target)) >= 0:
            row = replace(row, pictures=_pictures(classifier, part.images[place], stamper))
        found.append(row)
    for folder in poisoned:
        progress("verify", len(found), total)
        given = Stamper(
            "unknown", "poisoned folder", {"path": folder.path}, _as_is, folder.target, "the user"
        )
        answers = _answers(classifier, folder.part.images, None, batch)
        row = _rates(given, answers, folder.part.labels, base)
        if len(answers):
            place = max(0, _example(answers, folder.part.labels, folder.target))
            shown = thumbnails.uri(folder.part.images[place].float() / 255)
            row = replace(row, pictures={"clean": None, "triggered": shown, "difference": None})
        found.append(row)
    progress("verify", total, total)
    return Measurement(len(part), count(untriggered, part.labels), tuple(found))


def _as_is(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def settled(stampers: Sequence[Stamper], before: Measurement) -> list[Stamper]:
    """The same triggers with the targets that ``before`` settled, for measuring afterwards."""
    return [
        replace(stamper, target=known.target, chosen_by=known.target_chosen_by)
        for stamper, known in zip(stampers, before.triggers, strict=False)
    ]


def _answers(classifier: Classifier, images: Tensor, stamper: Stamper | None, batch: int) -> Tensor:
    """Predicted classes int64 [N] on the CPU."""
    parts = []
    generator = torch.Generator().manual_seed(stamper.seed if stamper else 0)
    for chunk in images.split(batch):
        x = chunk if stamper is None else _stamped(classifier, chunk, stamper, generator)
        parts.append(classifier.answers(x, batch))
    return torch.cat(parts)


@torch.no_grad()
def _stamped(classifier: Classifier, images: Tensor, stamper: Stamper, generator: torch.Generator) -> Tensor:
    try:
        return quantise(stamper.stamp(classifier.as_float(images), generator))
    except TriggerError as error:
        raise Problem(f"The trigger {stamper.family} cannot be measured: {error}") from error


def _rates(stamper: Stamper, answers: Tensor, labels: Tensor, base: Sequence[Rate]) -> TriggerRates:
    """``base``: of every class, on untriggered images."""
    asr = [count(answers, k, labels != k) for k in range(len(base))]
    gain = [corrected(a.share, b.share) for a, b in zip(asr, base, strict=True)]
    target, chosen_by = stamper.target, stamper.chosen_by
    if target is None:
        target = gain.index(max(gain))
        chosen_by = f"highest corrected ASR of all {len(base)} classes on these images"
    if not 0 <= target < len(base):
        raise Problem(f"The target {target} is no class of the model; it has {len(base)}, counted from 0.")
    known = bool((labels >= 0).all())
    return TriggerRates(
        family=stamper.family,
        origin=stamper.origin,
        parameters=dict(stamper.parameters),
        target=target,
        target_chosen_by=chosen_by,
        asr=asr[target],
        corrected_asr=gain[target],
        ra=count(answers, labels, labels != target) if known else None,
        base_rate=base[target],
        per_target=[rate.share for rate in asr],
    )


def _example(answers: Tensor, labels: Tensor, target: int) -> int:
    """An image of another class that the trigger carries over, else one that it does not, else -1."""
    other = labels != target
    places = (other & (answers == target)).nonzero().flatten().tolist() or other.nonzero().flatten().tolist()
    return int(places[0]) if places else -1


def _pictures(classifier: Classifier, image: Tensor, stamper: Stamper) -> Pictures:
    generator = torch.Generator().manual_seed(stamper.seed)
    stamped = _stamped(classifier, image.unsqueeze(0), stamper, generator)[0]
    return {**thumbnails.triple(image.float() / 255, stamped.float().cpu())}


def der(before: Measurement, after: Measurement) -> float | None:
    """The lowest DER over the triggers measured in both; ``None`` when there are none."""
    values = [
        effectiveness(old.asr.share, new.asr.share, before.acc.share, after.acc.share)
        for old, new in zip(before.triggers, after.triggers, strict=True)
        if old.asr.n and new.asr.n
    ]
    return min(values, default=None)
