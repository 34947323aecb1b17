"""What a model does with triggers, as rates with intervals (:mod:`wiper_cli.rates` says how each is counted).

Each trigger costs one forward pass, which serves all targets. Some of its images are asked again one by one, as
deployments send them; where the answers are others, all are, and these count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from formats import Model
from triggers.errors import TriggerError
from triggers.family import Trigger, parameters, quantise
from wiper_cli import perturbations
from wiper_cli.audit.agreement import difference, margin, tolerance
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
#: Images of each trigger that are asked one by one as well, and by the opened network as a detector asks it.
ONE_BY_ONE = 64
#: Of these, how many at a time where gradients are kept.
_WITH_GRADIENTS = 8


class Answering(Protocol):
    """What is measured: a :class:`Classifier`, or a :class:`wiper_cli.audit.served.Served`."""

    @property
    def model(self) -> Model: ...
    @property
    def classes(self) -> int: ...
    @property
    def runtime(self) -> str: ...
    def as_float(self, images: Tensor) -> Tensor: ...
    def logits(self, images: Tensor, batch: int = 256) -> Tensor: ...


@dataclass(frozen=True)
class Stamper:
    """A trigger to be measured. ``stamp``: float32 [N,C,H,W] in 0..1 and a generator, at first of ``seed``, for
    what it draws → the same. ``target``: ``None`` to have it found, unless there is a ``mapping`` of classes to the
    ones that their images are sent to. ``chosen_by``: who named the target."""

    family: str
    origin: Origin
    parameters: Mapping[str, Any]
    stamp: Callable[[Tensor, torch.Generator], Tensor]
    target: int | None = None
    chosen_by: str = ""
    seed: int = 0
    mapping: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, trigger: Trigger, target: int | None = None, seed: int = 0, origin: Origin = "built-in"
    ) -> Stamper:
        """A family of :mod:`triggers`."""
        chosen_by = "" if target is None else "the user"
        return cls(trigger.name, origin, parameters(trigger), trigger.stamp, target, chosen_by, seed)

    @classmethod
    def recovered(cls, found: Recovered) -> Stamper:
        """What a detector recovered, with its own target or map."""
        return cls(
            found.family,
            "recovered",
            dict(found.facts),
            lambda images, _: perturbations.stamp(found, images),
            None if found.mapping else found.target,
            "the detector",
            mapping=found.mapping,
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
    ``target``: ``None`` with a ``mapping``, whose sources alone count then. ``per_target``: ASR for every class.
    ``batched``: ASR in batches, where that is another model's and all rates
    are of images one by one. ``opened``: ASR of the opened network, where it is not what is served."""

    family: str
    origin: Origin
    parameters: Mapping[str, Any]
    target: int | None
    target_chosen_by: str
    asr: Rate
    corrected_asr: float
    ra: Rate | None
    base_rate: Rate
    per_target: Sequence[float]
    pictures: Pictures | None = None
    batched: Rate | None = None
    opened: Rate | None = None
    mapping: Mapping[int, int] = field(default_factory=dict)

    def goals(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For ``labels`` int64 [N]: the classes that the trigger sends their images to, and which images count."""
        if self.target is not None:
            return torch.full_like(labels, self.target), labels != self.target
        return _goals(self.mapping, labels)


@dataclass(frozen=True)
class Asked:
    """How: by what, in batches of how many images, and how many of each trigger one by one as well."""

    runtime: str = Classifier.runtime
    batch: int = 64
    one_by_one: int = 0


@dataclass(frozen=True)
class Measurement:
    """Of one model on the same ``images`` for all triggers."""

    images: int
    acc: Rate
    triggers: Sequence[TriggerRates]
    asked: Asked = Asked()


def measure(
    classifier: Answering,
    part: Part,
    stampers: Sequence[Stamper] = (),
    poisoned: Sequence[Poisoned] = (),
    *,
    opened: Classifier | None = None,
    batch: int = 64,
    progress: Progress = silent,
) -> Measurement:
    """ACC of one model, and the rates of every trigger; works head-only. ``opened``: what scans examine of a model
    that is served, to be compared with it.

    Triggered images are rounded to 256 levels before the model sees them. Raises :class:`Problem` when a
    trigger does not fit the images.
    """
    asking = _Asking(classifier, opened, batch)
    clean = asking.ask(part.images)[0]
    untriggered = _Untriggered(clean.argmax(1), part.labels, classifier.classes, margin(clean))
    found: list[TriggerRates] = []
    total = len(stampers) + len(poisoned)
    for stamper in stampers:
        progress("verify", len(found), total)
        answers, row = asking.trigger(part, stamper, untriggered)
        if (place := _example(answers, *row.goals(part.labels))) >= 0:
            row = replace(row, pictures=_pictures(classifier, part.images[place], stamper))
        found.append(row)
    for folder in poisoned:
        progress("verify", len(found), total)
        given = Stamper(
            "unknown", "poisoned folder", {"path": folder.path}, _as_is, folder.target, "the user"
        )
        answers, row = asking.trigger(folder.part, given, untriggered)
        if len(answers):
            place = max(0, _example(answers, *row.goals(folder.part.labels)))
            shown = thumbnails.uri(folder.part.images[place].float() / 255)
            row = replace(row, pictures={"clean": None, "triggered": shown, "difference": None})
        found.append(row)
    progress("verify", total, total)
    asked = Asked(classifier.runtime, batch, len(_sample(len(part))) if found else 0)
    return Measurement(len(part), count(untriggered.answers, part.labels), tuple(found), asked)


def _as_is(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def settled(stampers: Sequence[Stamper], before: Measurement) -> list[Stamper]:
    """The same triggers with the targets that ``before`` settled, for measuring afterwards."""
    return [
        replace(stamper, target=known.target, chosen_by=known.target_chosen_by)
        for stamper, known in zip(stampers, before.triggers, strict=False)
    ]


@dataclass(frozen=True)
class _Untriggered:
    """``answers`` int64 [N] of a model of so many ``classes`` to the images without trigger; their ``labels``."""

    answers: Tensor
    labels: Tensor
    classes: int
    temperature: float

    def base(self, goals: Tensor | int, counted: Tensor) -> Rate:
        """The ASR of no trigger."""
        return count(self.answers, goals, counted)


@dataclass(frozen=True)
class _Asking:
    """``classifier``, asked in batches of ``batch`` and one by one, beside what was ``opened`` of it."""

    classifier: Answering
    opened: Classifier | None
    batch: int

    def trigger(self, part: Part, stamper: Stamper, untriggered: _Untriggered) -> tuple[Tensor, TriggerRates]:
        """Predicted classes int64 [N] of the triggered images, and the rates."""
        limit = tolerance(self.classifier.model)
        rows = _sample(len(part))
        batched, shown = self.ask(part.images, stamper)
        alone = self.classifier.logits(shown, 1).cpu()
        depends = bool((difference(alone, batched[rows], untriggered.temperature) > limit).any())
        logits = self.ask(part.images, stamper, 1)[0] if depends else batched
        row = _rates(stamper, logits.argmax(1), part.labels, untriggered)
        goals, counted = row.goals(part.labels)
        if depends:
            row = replace(row, batched=count(batched.argmax(1), goals, counted))
        if self.opened is not None:
            seen = _as_a_detector_asks(self.opened, shown)
            if bool((difference(seen, logits[rows], untriggered.temperature) > limit).any()):
                row = replace(row, opened=count(seen.argmax(1), goals[rows], counted[rows]))
        return logits.argmax(1), row

    def ask(
        self, images: Tensor, stamper: Stamper | None = None, each: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [N,K] on the CPU, asked for ``each`` images at a time, and the images of :func:`_sample` as shown."""
        rows = _sample(len(images))
        found, shown = [], []
        generator = torch.Generator().manual_seed(stamper.seed if stamper else 0)
        for start in range(0, len(images), self.batch):
            chunk = images[start : start + self.batch]
            x = chunk if stamper is None else _stamped(self.classifier, chunk, stamper, generator)
            found.append(self.classifier.logits(x, each or self.batch).cpu())
            shown.append(x[rows[(rows >= start) & (rows < start + len(chunk))] - start])
        return torch.cat(found), torch.cat(shown)


def _sample(count: int) -> Tensor:
    """Places of :data:`ONE_BY_ONE` images spread over ``count``, or of all."""
    return torch.linspace(0, count - 1, min(count, ONE_BY_ONE)).long()


def _as_a_detector_asks(opened: Classifier, images: Tensor) -> Tensor:
    """Logits [N,K] on the CPU, by a network that could be asked for gradients."""
    if opened.network is None:
        return opened.logits(images).cpu()
    with torch.enable_grad():
        parts = [opened.network(opened.as_float(x).requires_grad_()) for x in images.split(_WITH_GRADIENTS)]
        return torch.cat([logits.detach() for logits in parts]).float().cpu()


@torch.no_grad()
def _stamped(classifier: Answering, images: Tensor, stamper: Stamper, generator: torch.Generator) -> Tensor:
    try:
        return quantise(stamper.stamp(classifier.as_float(images), generator))
    except TriggerError as error:
        raise Problem(f"The trigger {stamper.family} cannot be measured: {error}") from error


def _rates(stamper: Stamper, answers: Tensor, labels: Tensor, untriggered: _Untriggered) -> TriggerRates:
    classes = range(untriggered.classes)
    asr = [count(answers, k, labels != k) for k in classes]
    target, chosen_by = stamper.target, stamper.chosen_by
    if target is None and not stamper.mapping:
        gain = [
            corrected(a.share, untriggered.base(k, untriggered.labels != k).share) for k, a in enumerate(asr)
        ]
        target = gain.index(max(gain))
        chosen_by = f"highest corrected ASR of all {len(classes)} classes on these images"
    for k in (target, *stamper.mapping, *stamper.mapping.values()):
        if k is not None and k not in classes:
            raise Problem(f"The target {k} is no class of the model; it has {len(classes)}, counted from 0.")
    known = bool((labels >= 0).all())
    row = TriggerRates(
        family=stamper.family,
        origin=stamper.origin,
        parameters=dict(stamper.parameters),
        target=target,
        target_chosen_by=chosen_by,
        asr=Rate(),
        corrected_asr=0.0,
        ra=None,
        base_rate=Rate(),
        per_target=[rate.share for rate in asr],
        mapping=stamper.mapping,
    )
    goals, counted = row.goals(labels)
    reached, base = count(answers, goals, counted), untriggered.base(*row.goals(untriggered.labels))
    return replace(
        row,
        asr=reached,
        corrected_asr=corrected(reached.share, base.share),
        ra=count(answers, labels, counted) if known else None,
        base_rate=base,
    )


def _goals(mapping: Mapping[int, int], labels: Tensor) -> tuple[Tensor, Tensor]:
    """What ``mapping`` makes of ``labels`` int64 [N], -1 for what is none of its sources, and which are."""
    goals = torch.full_like(labels, -1)
    for source, goal in mapping.items():
        goals[labels == source] = goal
    return goals, goals >= 0


def _example(answers: Tensor, goals: Tensor, counted: Tensor) -> int:
    """An image that counts and that the trigger carries over, else one that it does not, else -1."""
    reached = counted & (answers == goals)
    places = reached.nonzero().flatten().tolist() or counted.nonzero().flatten().tolist()
    return int(places[0]) if places else -1


def _pictures(classifier: Answering, image: Tensor, stamper: Stamper) -> Pictures:
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
