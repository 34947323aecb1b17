"""The written rule that makes a verdict of the detectors' evidence. Imports no torch.

1. A detector *fires* when its statistic exceeds its threshold; the class it names is *accused*. One that finds a map
   of the classes to other ones names none.
2. Every detector that fires is one finding. It is *critical* where the detector recovered a transform that
   sends held-out clean images to the class and either does so with at least :data:`CERTAIN` of them or
   another detector accuses the same class; else *high*.
3. Something fired: ``suspicious``. Nothing fired and a detector could not look, or none was asked:
   ``incomplete``. Nothing fired and all looked: ``no_finding``. Never ``malicious``: no statistic of a
   network's behaviour shows an intention.
4. *Suspects* are the accused, then the classes that came nearest to a threshold: these are weak, and worth
   a purifier's attention only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wiper_cli.audit.known_rates import NOT_CALIBRATED, KnownRate
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.verdict import Finding, Severity, Verdict

#: Share of held-out images from which one detector alone makes a finding critical.
CERTAIN = 0.9

#: Most classes handed to a purifier as suspects.
MOST_SUSPECTS = 4

#: A statistic within this share of its threshold, on either side, is said to be close to it.
CLOSE = 0.15

#: Pairs of a map that a finding spells out.
MOST_PAIRS = 4


@dataclass(frozen=True)
class Judgement:
    """``accused``: classes that a detector fired for, strongest first. ``suspects``: these, then ``weak``."""

    verdict: Verdict
    sentence: str
    findings: tuple[Finding, ...]
    accused: tuple[int, ...]
    weak: tuple[int, ...]

    @property
    def suspects(self) -> tuple[int, ...]:
        return self.accused + self.weak


def judge(
    evidence: Sequence[Evidence],
    classes: int,
    names: Sequence[str] | None = None,
    known: KnownRate | None = None,
    power: str = "",
) -> Judgement:
    """The verdict on one model. ``names``: the classes' names, if known (else numbers are used). ``known``: how often
    honest models like it are accused, said with every verdict. ``power``: a clause on what the scan found of backdoors
    that were planted in copies."""
    rate = known.sentence if known else NOT_CALIBRATED
    fired = sorted((piece for piece in evidence if piece.ran and piece.fired), key=lambda p: -_excess(p))
    findings = sorted(
        (_finding(p, fired, names, known) for p in fired), key=lambda finding: -finding.severity
    )
    accused = tuple(dict.fromkeys(piece.target for piece in fired if piece.target is not None))
    near = {
        k: max(_nearness(piece, k) for piece in evidence if piece.ran)
        for piece in evidence
        if piece.ran
        for k in piece.suspects
        if k not in accused and 0 <= k < classes
    }
    weak = tuple(sorted(near, key=lambda k: (-near[k], k)))[: max(0, MOST_SUSPECTS - len(accused))]
    blind = [piece for piece in evidence if not piece.ran]
    if fired:
        verdict = Verdict.SUSPICIOUS
        accusers = {k: [p.name for p in fired if p.target == k] for k in accused}
        charges = "; ".join(f"{called(k, names)} ({', '.join(accusers[k])})" for k in accused)
        mapped = ", ".join(p.name for p in fired if p.mapping)
        charge = " and ".join(
            [f"towards {charges}"] * bool(charges)
            + [f"from each class to another one ({mapped})"] * bool(mapped)
        )
        sentence = (
            f"Suspicious: the network behaves as if it had a backdoor {charge}. "
            f"{_closeness(fired) if all(map(is_close, fired)) else ''}{rate}"
        )
    elif blind or not evidence:
        verdict = Verdict.INCOMPLETE
        alike: dict[str, list[str]] = {}
        for piece in blind:
            alike.setdefault(piece.reason or "", []).append(piece.name)
        reasons = "; ".join(f"{', '.join(same)} did not run: {reason}" for reason, same in alike.items())
        sentence = f"No verdict: {reasons or 'no detector was asked'}."
        if len(blind) < len(evidence):
            sentence += f" What did run found nothing. {rate}"
    else:
        verdict = Verdict.NO_FINDING
        sentence = (
            f"No finding{f', and {power}' if power else ''}: "
            f"{', '.join(piece.name for piece in evidence)} stayed under "
            f"{'its threshold' if len(evidence) == 1 else 'their thresholds'}. "
            f"{_closeness([piece for piece in evidence if is_close(piece)])}"
            f"This does not show that the model has no backdoor. {rate}"
        )
    return Judgement(verdict, sentence, tuple(findings), accused, weak)


def _finding(
    piece: Evidence, fired: Sequence[Evidence], names: Sequence[str] | None, known: KnownRate | None
) -> Finding:
    detector = DETECTORS[piece.name]
    target, statistic, threshold = piece.target, piece.statistic, piece.threshold
    assert target is not None or piece.mapping
    assert statistic is not None
    assert threshold is not None
    agreeing = [o.name for o in fired if o is not piece and target is not None and o.target == target]
    works = [
        found
        for found in piece.recovered
        if (piece.mapping or found.target == target) and "success" in found.facts
    ]
    success = max((float(found.facts["success"]) for found in works), default=None)
    images = max((int(found.facts.get("images", 0)) for found in works), default=None)
    critical = success is not None and success > 0 and (success >= CERTAIN or bool(agreeing))
    if target is None:
        who = "A backdoor may lead from each class to another one"
    else:
        who = f"{called(target, names).replace('class', 'Class', 1)} may be the target of a backdoor"
    parts = [
        f"{who}: {detector.says} "
        f"({piece.name} {_shown(piece, statistic)}, threshold {_shown(piece, threshold)}"
        f"{', which is close' if is_close(piece) else ''}, {'set by hand' if known else 'not calibrated'})."
    ]
    if success is not None:
        parts.append(f"It does so with {success:.0%} of {images} held-out clean images.")
    if piece.mapping:
        pairs = [f"{called(k, names)} to {called(goal, names)}" for k, goal in piece.mapping.items()]
        more = f" and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else ""
        parts.append(f"It leads from {', '.join(pairs[:MOST_PAIRS])}{more}.")
    if agreeing:
        parts.append(f"The same class was named by {_listed(agreeing)}.")
    return Finding(
        rule=detector.rule.id,
        severity=Severity.CRITICAL if critical else Severity.HIGH,
        message=" ".join(parts),
        evidence={
            "detector": piece.name,
            "statistic": statistic,
            "threshold": threshold,
            "threshold_origin": piece.threshold_origin,
            "false_alarm_rate": alarms(piece, known),
            **({} if known is None else {"p_value": known.p_value(piece.name, statistic)}),
            **({"map": dict(piece.mapping)} if target is None else {"target": target}),
            **({} if success is None else {"success": success, "images": images}),
            **({"agreeing": agreeing} if agreeing else {}),
            **({"close": True} if is_close(piece) else {}),
        },
        place={} if target is None else {"class": target},
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def alarms(piece: Evidence, known: KnownRate | None) -> float | None:
    """Share of honest networks like this one that the detector accused; ``None`` where nobody has measured it."""
    own = known.fired.get(piece.name) if known else None
    return piece.false_alarm_rate if own is None else own.value


def is_close(piece: Evidence) -> bool:
    """Whether other images, or another seed, might well have put the statistic on the other side of its threshold."""
    return piece.ran and abs(_excess(piece) - 1) <= CLOSE


def _closeness(pieces: Sequence[Evidence]) -> str:
    said = [f"{p.name} {_shown(p, p.statistic)} against {_shown(p, p.threshold)}" for p in pieces]
    return f"That is close: {', '.join(said)}. " if said else ""


def _shown(piece: Evidence, value: float | None) -> str:
    return f"{value:.0%}" if DETECTORS[piece.name].in_percent else f"{value:.1f}"


def _excess(piece: Evidence) -> float:
    return (piece.statistic or 0.0) / piece.threshold if piece.threshold else 0.0


def _nearness(piece: Evidence, k: int) -> float:
    """The class's statistic in units of the threshold."""
    return piece.per_class[k] / piece.threshold if piece.threshold and k < len(piece.per_class) else 0.0


def called(k: int, names: Sequence[str] | None) -> str:
    """``class 0 (airplane)``, or ``class 0`` where the name says no more."""
    return f"class {k} ({names[k]})" if names and k < len(names) and names[k] != str(k) else f"class {k}"
