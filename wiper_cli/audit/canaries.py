"""Canaries: how far the silence of a scan reaches, measured on the user's own network.

In copies of the network, fine-tuned on the clean images alone, known backdoors are planted, one kind after the other,
and the same scan looks at each copy. What it finds of them is its power on this network. The planting happens here; the
detectors see a copy and nothing else.

A backdoor that a short fine-tuning plants is not one that was trained in from the start, and detectors search on the
images that it was planted with: the share that is found predicts what a scan would see, it bounds it from no side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import triggers
from formats import EditError
from triggers.errors import TriggerError
from triggers.family import Trigger, parameters, quantise
from wiper_cli.audit.detection import look
from wiper_cli.audit.subject import Reporter
from wiper_cli.classifier import LARGE, Classifier
from wiper_cli.detectors.evidence import Detector
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import relative_size
from wiper_cli.purifiers.machinery.training import NetworkStudent, cosine
from wiper_cli.rates import Rate

#: Least attack success, and most accuracy lost as a fraction, of a canary that counts.
TAKEN, MOST_LOST = 0.8, 0.05
#: Adam's steps and images a step, of small images and of those from :data:`LARGE` pixels on; its largest rate.
SMALL_WORK, LARGE_WORK, RATE = (600, 64), (200, 32), 1e-3
#: Of a batch the share that is stamped, the weight of its loss, and the temperature of the answers that the rest keeps.
STAMPED, WEIGHT, TEMPERATURE = 0.15, 0.2, 2.0
#: Tries at most for every canary that is asked for.
TRIES = 2


@dataclass(frozen=True)
class Kind:
    """A family with its ``settings``; ``lengths``: those in pixels of a 32x32 image."""

    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)

    def trigger(self, seed: int, unit: float) -> Trigger:
        """On images ``unit`` times 32 pixels a side."""
        sizes = {name: max(1, round(value * unit)) for name, value in self.lengths.items()}
        kind = triggers.find(self.family)
        drawn = {"seed": seed} if "seed" in kind.__dataclass_fields__ else {}  # type: ignore[attr-defined]
        return kind(**self.settings, **sizes, **drawn)


#: In the order in which they are planted: a patch, a warp, a picture over all, a line, waves over all.
KINDS = (
    Kind("badnet", {"corner": "bottom-right"}, {"size": 3, "margin": 1}),
    Kind("wanet", {"strength": 2.5}),
    Kind("blend"),
    Kind("shape", {"form": "line", "colours": "one", "corner": "top-right"}, {"length": 9, "margin": 3}),
    Kind("sinusoid"),
)


@dataclass(frozen=True)
class Canary:
    """``asr``: of held-out clean images. ``lost``: accuracy, as a fraction. ``fired``: detectors that accused the
    class; none where the canary did not ``count``."""

    family: str
    title: str
    parameters: Mapping[str, Any]
    target: int
    asr: Rate
    lost: float
    fired: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the network had the backdoor and was otherwise what it was."""
        return self.asr.share >= TAKEN and self.lost <= MOST_LOST

    def as_dict(self) -> dict[str, Any]:
        """One row of the report's ``detection.canaries``."""
        return {**asdict(self), "asr": self.asr.as_dict(), "fired": list(self.fired), "counts": self.counts}


def passes(count: int, side: int) -> tuple[int, int]:
    """Forward and backward passes that planting ``count`` canaries takes where all count at once; a step that trains
    weights goes back twice."""
    steps, batch = _work(side)
    return count * steps * batch, 2 * count * steps * batch


def _work(side: int) -> tuple[int, int]:
    return SMALL_WORK if side < LARGE else LARGE_WORK


def power(canaries: Sequence[Canary]) -> str:
    """One clause on those that count."""
    counting = [one for one in canaries if one.counts]
    if not counting:
        return "no known backdoor could be planted in a copy of the network to see whether it is found"
    found = [one for one in counting if one.fired]
    missed = sorted({one.family for one in counting if not one.fired})
    clause = (
        f"of {len(counting)} known backdoors planted in copies of the network it found {len(found) or 'none'}"
    )
    return clause + (f" (missed: {', '.join(missed)})" if missed else "")


def canaries(
    classifier: Classifier,
    clean: Clean,
    detectors: Mapping[str, Detector],
    count: int,
    seed: int,
    report: Reporter,
) -> list[Canary]:
    """Plants kinds in turn until ``count`` of them count, in at most :data:`TRIES` times as many, and looks at each
    with ``detectors``, one after the other until one accuses its class. Deterministic under ``seed`` on the CPU. The
    classifier needs a network that gives gradients.
    """
    found: list[Canary] = []
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randperm(classifier.classes, generator=generator).tolist()
    for number in range(TRIES * count):
        if sum(one.counts for one in found) == count:
            break
        kind, target = KINDS[number % len(KINDS)], targets[number % len(targets)]
        report(f"canary {number + 1}", 0, 0)
        own = seed + 101 * (number + 1)
        try:
            trigger = kind.trigger(own, relative_size(tuple(clean.fit.images.shape[1:])))
            found.append(_one(classifier, clean, detectors, trigger, target, own, report))
        except (TriggerError, EditError):  # it does not fit these images, or training left no finite weights
            continue
    return found


def _one(
    classifier: Classifier,
    clean: Clean,
    detectors: Mapping[str, Detector],
    trigger: Trigger,
    target: int,
    seed: int,
    report: Reporter,
) -> Canary:
    generator = torch.Generator().manual_seed(seed)
    before = classifier.own(clean.select.images, torch.arange(len(clean.select)))
    planted = _planted(classifier, clean, trigger, target, generator, report)
    labels = clean.select.labels if (clean.select.labels >= 0).all() else before
    lost = float(
        (before == labels).double().mean() - (planted.answers(clean.select.images) == labels).double().mean()
    )
    asr = _success(planted.answers, clean.select.images[before != target], trigger, target, generator)
    canary = Canary(trigger.name, trigger.title, parameters(trigger), target, asr, round(lost, 4))
    if not canary.counts:
        return canary
    fired: tuple[str, ...] = ()
    for name, one in detectors.items():
        (piece,) = look({name: one}, planted, clean, seed, report)
        if piece.fired and piece.target == target:
            fired = (name,)
            break
    return Canary(**{**vars(canary), "fired": fired})


def _planted(
    classifier: Classifier,
    clean: Clean,
    trigger: Trigger,
    target: int,
    generator: torch.Generator,
    report: Reporter,
) -> Classifier:
    """A copy that was fine-tuned to its own answers on clean images and to ``target`` on stamped ones."""
    student, images = NetworkStudent(classifier), clean.fit.images
    own = classifier.logits(images, min(256, 2 * classifier.batch)) / TEMPERATURE
    steps, batch = _work(min(images.shape[2:]))
    optimiser = torch.optim.Adam(list(student.weights.values()), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, cosine(steps))
    count = round(STAMPED * batch)
    for step in range(steps):
        rows = torch.randint(len(images), (batch,), generator=generator)
        x = classifier.as_float(images[rows])
        with torch.no_grad():
            x = torch.cat([quantise(trigger.poison(x[:count], generator)), x[count:]])
        logits = student.logits(x)
        stamped = F.cross_entropy(logits[:count], torch.full((count,), target, device=logits.device))
        kept = F.kl_div(
            (logits[count:] / TEMPERATURE).log_softmax(1), own[rows[count:]].softmax(1), reduction="batchmean"
        )
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(WEIGHT * stamped + TEMPERATURE**2 * kept)
        optimiser.step()
        schedule.step()
        report("plant", step + 1, steps)
    return classifier.with_edit(student.edit())


def _success(
    answers: Callable[[Tensor], Tensor],
    images: Tensor,
    trigger: Trigger,
    target: int,
    generator: torch.Generator,
) -> Rate:
    """Of ``images`` (uint8 [N,C,H,W], of other classes) those that are sent to ``target``."""
    hits = sum(
        int((answers(quantise(trigger.stamp(x.float() / 255, generator))) == target).sum())
        for x in images.split(64)
    )
    return Rate(hits, len(images))
