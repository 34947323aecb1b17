"""The scan proper: detectors look, the written rule judges."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from wiper_cli.audit.judgement import Judgement, judge
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS, detector
from wiper_cli.detectors.evidence import Detector, Evidence
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import Recovered
from wiper_cli.progress import Progress, silent
from wiper_cli.verdict import Problem

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
) -> Detection:
    """Runs the detectors ``names`` of :data:`wiper_cli.detectors.DETECTORS` and judges what they say.

    ``class_names``: for sentences. ``settings``: of every detector; their defaults, the thorough ones, where there are
    none. ``heard`` is told after each detector what stands if nothing follows. Raises :class:`Problem` for a name that
    does not exist, before anything runs.
    """
    known(names)
    chosen = settings or {name: detector(name) for name in names}

    def judged(found: tuple[Evidence, ...]) -> Detection:
        return pending(chosen, classifier.classes, class_names, found)

    return judged(look(chosen, classifier, clean, seed, progress, stage, lambda found: heard(judged(found))))


def pending(
    detectors: Mapping[str, Detector],
    classes: int,
    class_names: Sequence[str] | None = None,
    found: tuple[Evidence, ...] = (),
) -> Detection:
    """What stands when the first of ``detectors`` have ``found`` something and the others have not run."""
    waiting = list(detectors.items())[len(found) :]
    missing = [Evidence(name, False, "the scan ended before it", title=one.title) for name, one in waiting]
    evidence = (*found, *missing)
    return Detection(evidence, judge(evidence, classes, class_names))


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
) -> tuple[Evidence, ...]:
    """What each of ``detectors`` finds, under its name there; ``heard`` is told what there is after each."""
    found: list[Evidence] = []
    for name, one in detectors.items():
        with stage(name):
            evidence = one.run(classifier, clean, progress, seed)
        found.append(replace(evidence, name=name, title=one.title))
        heard(tuple(found))
    return tuple(found)
