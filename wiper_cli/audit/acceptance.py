"""Whether a purification is accepted: accuracy, the recovered triggers, and probes it was not trained against.

Reads measurements and evidence; imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wiper_cli.detectors.evidence import Evidence
from wiper_cli.rates import Rate

if TYPE_CHECKING:
    from wiper_cli.audit.measure import Measurement, TriggerRates

#: After purification the ASR's lower end may exceed the base rate's upper end by this much: a trigger that
#: covers or distorts an image sends some of them to the target in honest models too.
SLACK = 0.03
#: ... and its upper end may exceed the base rate by this much; a wider interval means too few images. What exceeded it
#: no further before was no trigger, and is held against a purification within this room only where it rose: of what a
#: later scan makes of an honest outcome, a warp for one image in ten, the interval alone would leave the room.
ROOM = 0.10


def accept(
    before: Measurement,
    after: Measurement,
    probes: Sequence[Evidence],
    max_accuracy_drop: float,
    suspects: Sequence[int] = (),
    accept_unverified: bool = False,
    scan: Sequence[Evidence] | None = None,
) -> tuple[bool, str]:
    """Whether a purification is accepted, and a sentence on why (or on every reason why not).

    ``before``, ``after``: of the report part with the same triggers. ``probes``: detectors
    run on the purified file that the purifier did not train against. ``max_accuracy_drop``: fraction in 0..1.
    ``suspects``: classes accused in the original file or in a later round; a probe counts when it fires for one of
    them, for any class when none are given. ``accept_unverified``: also where nothing had been found that could be seen
    to go, or nothing but the accuracy could be looked at. ``scan``: of the purified file, where it was scanned as the
    original was; there no detector may fire, for whatever class.
    """
    fall = before.acc.share - after.acc.share
    moved = _moved(fall)
    asked = [probe.name for probe in probes if probe.ran]
    unverified = not asked and not after.triggers
    if unverified and accept_unverified and after.acc.n and fall < max_accuracy_drop:
        return True, (
            f"Written unverified, as asked: {moved}, and nothing showed whether there was a backdoor or whether it is "
            "gone."
        )
    against = _accuracy(before.acc, after.acc, max_accuracy_drop)
    pairs = list(zip(before.triggers, after.triggers, strict=True))
    working = [
        reason
        for old, new in sorted(pairs, key=lambda pair: -pair[1].asr.share)
        for reason in _still_works(old, new)
    ]
    if working:
        more = f" (and so for {len(working) - 1} more of the {len(pairs)} triggers)" if working[1:] else ""
        against.append(working[0] + more)
    for probe in probes:
        if probe.ran and probe.fired and (not suspects or probe.target is None or probe.target in suspects):
            against.append(f"the probe {_fires(probe)}")
    for piece in scan or ():
        if piece.ran and piece.fired:
            against.append(f"in a scan of the outcome {_fires(piece)}")
    if not asked:
        against.append("no independent probe could be run on the purified model")
    elif not (suspects or pairs or accept_unverified):
        against.append("nothing had been found that could be seen to go")
    if against:
        return False, f"Not accepted: {'; '.join(against)}."
    worked = sum(_exceeds_room(old.asr, old.base_rate) for old in before.triggers)
    of_these = "none of these does now" if worked else "none has begun to"
    triggers = f"{worked} of the {len(pairs)} triggers measured had worked and {of_these}, " if pairs else ""
    where = " for the classes suspected" if suspects else ""
    claim = "" if suspects or pairs else " No class had been suspected, so no removal is claimed."
    scanned = "" if scan is None else ", and in a new scan no detector fired"
    return True, (
        f"Accepted: {moved}, {triggers}and the independent probes ({', '.join(asked)}) found nothing{where}{scanned}."
        f"{claim}"
    )


def can_tell(images: int, max_accuracy_drop: float) -> bool:
    """Whether so many images can show that the accuracy fell by no more: a single one must not decide."""
    return max_accuracy_drop * images >= 1


def _fires(piece: Evidence) -> str:
    target = "" if piece.target is None else f" for class {piece.target}"
    return f"{piece.name} still fires{target} ({piece.statistic:.2f} against {piece.threshold:.2f})"


def _moved(fall: float) -> str:
    points = f"{100 * abs(fall):.1f} points"
    if points == "0.0 points":
        return "the accuracy stayed as it was"
    return f"the accuracy {'fell' if fall > 0 else 'rose'} by {points}"


def _accuracy(old: Rate, new: Rate, limit: float) -> list[str]:
    if not old.n or not new.n:
        return ["there are no images to measure the accuracy on"]
    if not can_tell(new.n, limit):
        return [f"with {new.n} images a single one decides about the allowed fall of {100 * limit:g} points"]
    fall = old.share - new.share
    if fall < limit:
        return []
    return [f"the accuracy fell by {100 * fall:.1f} points, from {_percent(old)} to {_percent(new)}"]


def _still_works(old: TriggerRates, new: TriggerRates) -> list[str]:
    asr, base = new.asr, new.base_rate
    where = "each class to another one" if new.target is None else f"class {new.target}"
    which = f"{new.origin} trigger {new.family} for {where}"
    if not asr.n or not base.n:
        return [f"the {which} could not be measured on any image"]
    low, high = asr.interval
    rose = low > old.asr.interval[1]
    worked = _exceeds_room(old.asr, old.base_rate)
    if _exceeds_room(asr, base) or (low > base.interval[1] + SLACK and (worked or rose)):
        was = _percent(old.asr)
        return [f"the {which} still succeeds on {_percent(asr)} (before {was}, base rate {_percent(base)})"]
    if high > base.share + ROOM and (worked or rose or high - asr.share > SLACK):
        return [f"{asr.n} images are too few to tell the {which} from the base rate ({_percent(asr)})"]
    return []


def _exceeds_room(asr: Rate, base: Rate) -> bool:
    """Beyond what a harmless change of the image may do."""
    return asr.share > base.share + ROOM


def _percent(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.share:.1f} % ({100 * low:.1f} to {100 * high:.1f}, n = {rate.n})"
