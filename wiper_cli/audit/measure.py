"""What a model does with triggers, as rates with intervals, and whether a purified one may stand.

ACC: share of clean images answered with their label. ASR for target t: share of triggered images answered
with t, images labelled t left out. RA: share of the same images answered with their own label. Base rate: the
ASR formula on the untriggered images. All are fractions in 0..1 with Wilson 95 % intervals. Each trigger
costs one forward pass, which serves all targets.
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
from wiper_cli.rates import corrected, effectiveness, rate
from wiper_cli.verdict import Problem

Origin = Literal["built-in", "known", "fitted", "recovered", "poisoned folder"]
Measurement = dict[str, Any]


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
        return cls(
            trigger.name,
            origin,
            parameters(trigger),
            trigger.stamp,
            target,
            "" if target is None else "the user",
            seed,
        )

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


def measure(
    classifier: Classifier,
    part: Part,
    stampers: Sequence[Stamper] = (),
    poisoned: Sequence[Poisoned] = (),
    *,
    batch: int = 64,
    with_pictures: bool = True,
    progress: Progress = silent,
) -> Measurement:
    """``{images, acc, triggers[]}`` of one model, as in the report's schema; works head-only.

    Triggered images are rounded to 256 levels before the model sees them. Raises :class:`Problem` when a
    trigger does not fit the images.
    """
    plain = _answers(classifier, part.images, None, batch)
    found: list[dict[str, Any]] = []
    total = len(stampers) + len(poisoned)
    for stamper in stampers:
        progress("verify", len(found), total)
        answers = _answers(classifier, part.images, stamper, batch)
        found.append(_rates(classifier.classes, stamper, answers, part.labels, plain, part.labels))
        if with_pictures:
            place = _telling(answers, part.labels, found[-1]["target"])
            if place >= 0:
                found[-1]["pictures"] = _pictures(classifier, part.images[place], stamper)
    for folder in poisoned:
        progress("verify", len(found), total)
        parameters = {"path": folder.path}
        who = Stamper("unknown", "poisoned folder", parameters, _as_is, folder.target, "the user")
        answers = _answers(classifier, folder.part.images, None, batch)
        found.append(_rates(classifier.classes, who, answers, folder.part.labels, plain, part.labels))
        if with_pictures and len(answers):
            place = max(0, _telling(answers, folder.part.labels, folder.target))
            shown = thumbnails.uri(folder.part.images[place].float() / 255)
            found[-1]["pictures"] = {"clean": None, "triggered": shown, "difference": None}
    progress("verify", total, total)
    acc = rate(int((plain == part.labels).sum()), len(part))
    return {"images": len(part), "acc": acc, "triggers": found}


def _as_is(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def settled(stampers: Sequence[Stamper], before: Mapping[str, Any]) -> list[Stamper]:
    """The same triggers with the targets that ``before`` settled, for measuring afterwards."""
    return [
        replace(stamper, target=known["target"], chosen_by=known["target_chosen_by"])
        for stamper, known in zip(stampers, before["triggers"], strict=False)
    ]


def _answers(classifier: Classifier, images: Tensor, stamper: Stamper | None, batch: int) -> Tensor:
    """Predicted classes int64 [N] on the CPU."""
    parts = []
    generator = torch.Generator().manual_seed(stamper.seed if stamper else 0)
    for chunk in images.split(batch):
        x = chunk if stamper is None else _stamped(classifier, chunk, stamper, generator)
        parts.append(classifier.logits(x, batch).argmax(1).cpu())
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


@torch.no_grad()
def _stamped(classifier: Classifier, images: Tensor, stamper: Stamper, generator: torch.Generator) -> Tensor:
    try:
        return quantise(stamper.stamp(classifier.as_float(images), generator))
    except TriggerError as error:
        raise Problem(f"The trigger {stamper.family} cannot be measured: {error}") from error


def _rates(
    classes: int, stamper: Stamper, answers: Tensor, labels: Tensor, plain: Tensor, plain_labels: Tensor
) -> dict[str, Any]:
    hits, n = _per_target(answers, labels, classes)
    base_hits, base_n = _per_target(plain, plain_labels, classes)
    asr = [h / m if m else 0.0 for h, m in zip(hits, n, strict=True)]
    base = [h / m if m else 0.0 for h, m in zip(base_hits, base_n, strict=True)]
    target, chosen_by = stamper.target, stamper.chosen_by
    if target is None:
        gain = [corrected(a, b) for a, b in zip(asr, base, strict=True)]
        target = gain.index(max(gain))
        chosen_by = f"highest corrected ASR of all {classes} classes on these images"
    if not 0 <= target < classes:
        raise Problem(f"The target {target} is no class of the model; it has {classes}, counted from 0.")
    kept = labels != target
    right = int(((answers == labels) & kept).sum())
    known = bool((labels >= 0).all())
    return {
        "family": stamper.family,
        "origin": stamper.origin,
        "parameters": dict(stamper.parameters),
        "target": target,
        "target_chosen_by": chosen_by,
        "asr": rate(hits[target], n[target]),
        "corrected_asr": corrected(asr[target], base[target]),
        "ra": rate(right, n[target]) if known else None,
        "base_rate": rate(base_hits[target], base_n[target]),
        "per_target": asr,
        "pictures": None,
    }


def _per_target(answers: Tensor, labels: Tensor, classes: int) -> tuple[list[int], list[int]]:
    """For every class: images of other classes answered with it, and images of other classes."""
    wrong = answers[answers != labels].bincount(minlength=classes)
    own = labels[labels >= 0].bincount(minlength=classes)
    return wrong[:classes].tolist(), (len(labels) - own[:classes]).tolist()


def _telling(answers: Tensor, labels: Tensor, target: int) -> int:
    """An image of another class that the trigger carries over, else one that it does not, else -1."""
    other = labels != target
    places = (other & (answers == target)).nonzero().flatten().tolist() or other.nonzero().flatten().tolist()
    return int(places[0]) if places else -1


def _pictures(classifier: Classifier, image: Tensor, stamper: Stamper) -> dict[str, str]:
    generator = torch.Generator().manual_seed(stamper.seed)
    stamped = _stamped(classifier, image.unsqueeze(0), stamper, generator)[0]
    return thumbnails.triple(image.float() / 255, stamped.float().cpu())


def der(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """The lowest DER over the triggers measured in both; ``None`` when there are none."""
    values = [
        effectiveness(old["asr"]["value"], new["asr"]["value"], before["acc"]["value"], after["acc"]["value"])
        for old, new in zip(before["triggers"], after["triggers"], strict=True)
        if old["asr"]["n"] and new["asr"]["n"]
    ]
    return min(values, default=None)
