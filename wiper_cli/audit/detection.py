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
) -> Detection:
    """Runs the detectors ``names`` of :data:`wiper_cli.detectors.DETECTORS` and judges what they say.

    ``class_names``: for sentences. Raises :class:`Problem` for a name that does not exist, before anything runs.
    """
    for name in names:
        if name not in DETECTORS:
            raise Problem(f"There is no detector {name!r}; there are {', '.join(DETECTORS)}.")
    evidence = look({name: detector(name) for name in names}, classifier, clean, seed, progress, stage)
    return Detection(evidence, judge(evidence, classifier.classes, class_names))


def look(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    clean: Clean,
    seed: int,
    progress: Progress = silent,
    stage: Stage = nullcontext,
) -> tuple[Evidence, ...]:
    """What each of ``detectors`` finds, under its name there."""
    found = []
    for name, one in detectors.items():
        with stage(name):
            evidence = one.run(classifier, clean, progress, seed)
        found.append(replace(evidence, name=name, title=one.title))
    return tuple(found)
