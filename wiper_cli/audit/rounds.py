"""Rounds of a purification: what was ever found, what each round came to, which of them stands.

Pure functions and values; the loop itself stands in :func:`wiper_cli.audit.stories.purify`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from formats import Edit
from wiper_cli.audit.acceptance import can_tell
from wiper_cli.audit.detection import Detection
from wiper_cli.audit.measure import Measurement
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.detectors.class_map import ClassMap
from wiper_cli.detectors.evidence import Detector, Evidence
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.perturbations import Recovered
from wiper_cli.purifiers.contract import Purified

#: Added to a run's seed for every round but the first, so that none shares a start with another or with its probes.
ROUND_SEED_OFFSET = 104729


@dataclass(frozen=True)
class Finds:
    """Whatever was ever found. ``accused``: classes that fired, or that the user named, first come first. ``weak``:
    those that came near a threshold last. ``recovered``: transforms of scans, of any class. ``shown``: sampled stamps
    that the purifier sees; ``held_back``: those that it does not."""

    accused: tuple[int, ...] = ()
    weak: tuple[int, ...] = ()
    recovered: tuple[Recovered, ...] = ()
    shown: tuple[Recovered, ...] = ()
    held_back: tuple[Recovered, ...] = ()

    def scanned(self, found: Detection, probes: Iterable[Evidence] | None = None) -> Finds:
        """With what a scan found, and the classes, but not the transforms, of the ``probes`` that fired: what judges
        is not trained against. Without ``probes`` it is the scan of the original."""
        judges = [one.target for one in probes or () if one.target is not None]
        accused = tuple(dict.fromkeys([*self.accused, *found.judged.accused, *judges]))
        later = probes is not None
        left = [_remnant(one) if later and one.target in accused else one for one in found.recovered]
        return replace(self, accused=accused, weak=found.judged.weak, recovered=(*self.recovered, *left))

    def sampled(self, shown: Sequence[Recovered], held_back: Sequence[Recovered]) -> Finds:
        """With the two parts of a sample of stamps."""
        return replace(self, shown=(*self.shown, *shown), held_back=(*self.held_back, *held_back))

    @property
    def suspects(self) -> list[int]:
        """Classes for the purifier, the most suspicious first."""
        return list(dict.fromkeys([*self.accused, *self.weak]))

    @property
    def unlearned(self) -> list[Recovered]:
        """Transforms that the purifier sees."""
        return [*self.recovered, *self.shown]

    @property
    def measured(self) -> list[Recovered]:
        """Transforms whose success is measured before and after: maps of classes, and those towards accused ones."""
        return [
            one for one in (*self.recovered, *self.held_back) if one.mapping or one.target in self.accused
        ]


def _remnant(one: Recovered) -> Recovered:
    """Marked as found, for a class that is accused, in an outcome: what is left there of a backdoor works rarely."""
    return replace(one, facts={**one.facts, "remnant": True})


@dataclass(frozen=True)
class Look:
    """A scan and all that was found by then. ``new``: of an outcome, and it counts when that is judged."""

    found: Detection
    finds: Finds
    new: bool = False


@dataclass(frozen=True)
class Round:
    """``look``: what it began with. ``again``: at the outcome. ``edit``: of the original file. ``before``, ``after``:
    of the triggers known after looking again, and those of later rounds where these bettered nothing. ``probes``: asked
    of the outcome. ``seconds``: with the scan of the outcome."""

    look: Look
    again: Look
    purified: Purified
    edit: Edit
    before: Measurement
    after: Measurement
    probes: tuple[Evidence, ...]
    accepted: bool = False
    reason: str = ""
    seconds: float = 0.0

    @property
    def fired(self) -> tuple[Evidence, ...]:
        """The probes that did, for whatever class."""
        return tuple(one for one in self.probes if one.ran and one.fired)

    @property
    def silent(self) -> bool:
        """Whether nothing is left to be done."""
        return self.accepted and not self.fired


def looks(request: PurifyRequest, images: int) -> bool:
    """Whether outcomes are scanned: not where no detector was asked for, or the report part's ``images`` are too few
    for any acceptance."""
    return bool(request.detectors) and can_tell(images, request.max_accuracy_drop)


def most(request: PurifyRequest, images: int) -> int:
    """Rounds at most. One, where another could change nothing: outcomes are not scanned, or the method does not read
    what scans find."""
    return request.max_rounds if request.method.uses_scan and looks(request, images) else 1


def seed_of(request: PurifyRequest, number: int) -> int:
    """Of round ``number``, from 0."""
    return request.seed + number * ROUND_SEED_OFFSET


def anew(detectors: Mapping[str, Detector], number: int) -> dict[str, Detector]:
    """The same for round ``number``, from 0: what follows from no seed, the places of squares, is shifted."""
    return {
        name: replace(one, offset=(one.offset + number) % one.step)
        if isinstance(one, (SquareProbe, ClassMap))
        else one
        for name, one in detectors.items()
    }


def going_on(rounds: Sequence[Round], max_accuracy_drop: float) -> Edit:
    """What the next round trains on from, as an edit of the original file: the outcome of the last one, whose own
    weaknesses it then unlearns, or the file itself where that outcome lost too much accuracy."""
    last = rounds[-1] if rounds else None
    kept = last is not None and last.before.acc.share - last.after.acc.share < max_accuracy_drop
    return last.edit if last is not None and kept else Edit({})


def joined(first: Edit, then: Edit) -> Edit:
    """One edit for two, the second of what the first left."""
    return Edit({**first.tensors, **then.tensors})


def settled(rounds: Sequence[Round]) -> bool:
    """Whether no other is needed: the last two were silent. One is not enough: of a blend whose first round left 17 of
    98 % unseen by every probe, the second, which went on from there, left 3."""
    return len(rounds) > 1 and all(one.silent for one in rounds[-2:])


def best(rounds: Sequence[Round]) -> Round:
    """The one that stands: accepted, with the fewest probes that fire, and of these the last, which went furthest."""
    return max(reversed(rounds), key=lambda one: (one.accepted, -len(one.fired)))


def shown(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """The report's ``purification.rounds``."""
    kept = best(rounds)
    return [
        {
            "fired": _fired(one.look.found.evidence),
            "accused": list(one.again.finds.accused),
            "unlearned": len(one.look.finds.unlearned),
            "measured": len(one.after.triggers),
            "acc": one.after.acc.as_dict(),
            "asr": max((trigger.asr.share for trigger in one.after.triggers), default=None),
            "probes_fired": _fired(one.probes),
            "outcome_fired": _fired(one.again.found.evidence) if one.again.new else None,
            "accepted": one.accepted,
            "reason": one.reason,
            "kept": one is kept,
            "seconds": one.seconds,
        }
        for one in rounds
    ]


def _fired(evidence: Iterable[Evidence]) -> list[dict[str, Any]]:
    names = ("name", "target", "statistic", "threshold")
    return [{name: getattr(one, name) for name in names} for one in evidence if one.ran and one.fired]
