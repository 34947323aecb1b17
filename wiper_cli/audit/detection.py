"""The scan proper: detectors look, the written rule judges."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from wiper_cli.audit.judgement import Judgement, is_close, judge
from wiper_cli.audit.known_rates import KnownRate
from wiper_cli.audit.memory import ran_out
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS, detector
from wiper_cli.detectors.evidence import Detector, Evidence
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import Problem

#: Stamps of every accused class that a purifier is to unlearn or the acceptance to measure; of these, one in so many
#: is held back from the purifier.
SAMPLED, HELD_BACK = 32, 4
#: A statistic that is close to its threshold is taken anew from so many other starts.
ANEW = 2

#: Images that a search holds at once at the least.
FEWEST_AT_ONCE = 4

#: Measures the time of what is named.
Stage = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Detection:
    """What the detectors found, in the order in which they ran, and what follows from it."""

    evidence: tuple[Evidence, ...]
    judged: Judgement

    @property
    def recovered(self) -> list[Recovered]:
        """The transforms that detectors recovered."""
        return [found for piece in self.evidence for found in piece.recovered]


def detect(
    classifier: Classifier,
    clean: Clean,
    names: Collection[str],
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    stage: Stage = nullcontext,
    settings: Mapping[str, Detector] | None = None,
    heard: Callable[[Detection], None] = lambda _: None,
    done: Mapping[str, Evidence] | None = None,
    rate: KnownRate | None = None,
) -> Detection:
    """Runs the detectors ``names`` of :data:`wiper_cli.detectors.DETECTORS` and judges what they say.

    ``class_names``: for sentences. ``settings``: of every detector; their defaults, the thorough ones, where there are
    none. ``heard`` is told after each detector what stands if nothing follows. ``done``: evidence that stands in place
    of a search. ``rate``: of :func:`judge`. Raises :class:`Problem` for a name that does not exist, before anything
    runs.
    """
    known(names)
    chosen = settings or {name: detector(name) for name in names}

    def judged(found: tuple[Evidence, ...]) -> Detection:
        return pending(chosen, classifier.classes, class_names, found, rate)

    each = look(chosen, classifier, clean, seed, progress, stage, lambda found: heard(judged(found)), done)
    return judged(each)


def pending(
    detectors: Mapping[str, Detector],
    classes: int,
    class_names: Sequence[str] | None = None,
    found: tuple[Evidence, ...] = (),
    rate: KnownRate | None = None,
) -> Detection:
    """What stands when the first of ``detectors`` have ``found`` something and the others have not run."""
    waiting = list(detectors.items())[len(found) :]
    missing = [Evidence(name, False, "the scan had ended", title=one.title) for name, one in waiting]
    evidence = (*found, *missing)
    return Detection(evidence, judge(evidence, classes, class_names, rate))


def known(names: Collection[str]) -> None:
    """Raises :class:`Problem` for a detector that does not exist."""
    for name in names:
        if name not in DETECTORS:
            raise Problem(f"There is no detector {name!r}; there are {', '.join(DETECTORS)}.")


def look(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    clean: Clean,
    seed: int,
    progress: Progress = silent,
    stage: Stage = nullcontext,
    heard: Callable[[tuple[Evidence, ...]], None] = lambda _: None,
    done: Mapping[str, Evidence] | None = None,
) -> tuple[Evidence, ...]:
    """What each of ``detectors`` finds, under its name there, or has found where it is ``done``; ``heard`` is told what
    there is after each."""
    found: list[Evidence] = []
    for name, one in detectors.items():
        evidence = (done or {}).get(name)
        if evidence is None:
            with stage(name):
                evidence = _within_memory(one, classifier, clean, seed, progress)
        found.append(replace(evidence, name=name, title=one.title))
        heard(tuple(found))
    return tuple(found)


def _within_memory(
    one: Detector, classifier: Classifier, clean: Clean, seed: int, progress: Progress
) -> Evidence:
    """The search again with half as many images at once where memory does not suffice; what it finds hangs on that by
    last digits alone."""
    while True:
        try:
            return one.run(classifier, clean, progress, seed)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error) or classifier.batch <= FEWEST_AT_ONCE:
                raise
        classifier.batch //= 2


def sample_of(
    classifier: Classifier,
    clean: Clean,
    accused: Sequence[int],
    seed: int,
    progress: Progress = silent,
    stage: Stage = nullcontext,
    usual: Detector | None = None,
) -> tuple[list[Recovered], list[Recovered]]:
    """A sample of small stamps that send images to ``accused`` classes: those for the purifier, and those that are held
    back from it to be measured. Both empty where nothing is accused or the search cannot run. ``usual``: the scan's
    shape probe, whose effort this search has too."""
    if not accused:
        return [], []
    search = usual if isinstance(usual, ShapeProbe) else ShapeProbe()
    search = replace(search, targets=tuple(accused), compared=0, kept=SAMPLED, handed_on=SAMPLED)
    with stage(search.name):
        found = search.run(classifier, clean, progress, seed).recovered
    shown = [one for number, one in enumerate(found) if number % HELD_BACK != HELD_BACK - 1]
    return shown, list(found[HELD_BACK - 1 :: HELD_BACK])


def look_closely(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    clean: Clean,
    seed: int,
    progress: Progress = silent,
    stage: Stage = nullcontext,
) -> tuple[Evidence, ...]:
    """As :func:`look`, but a statistic close to its threshold is taken :data:`ANEW` times more from other starts and
    images, and the evidence with the middle one of all stands, with ``statistics`` of all among its facts."""
    found = []
    for piece in look(detectors, classifier, clean, seed, progress, stage):
        pieces, one = [piece], {piece.name: detectors[piece.name]}
        if is_close(piece):
            for number in range(1, ANEW + 1):
                pieces += look(one, classifier, clean, seed + number, progress, stage)
            ran = sorted((other for other in pieces if other.ran), key=_statistic)
            facts = {"statistics": [_statistic(other) for other in ran]}
            middle = ran[len(ran) // 2]
            seconds = sum(other.seconds for other in pieces)
            piece = replace(middle, facts={**middle.facts, **facts}, seconds=seconds)
        found.append(piece)
    return tuple(found)


def _statistic(piece: Evidence) -> float:
    return piece.statistic or 0.0
