"""What several stories do alike."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wiper_cli.audit import requests
from wiper_cli.audit.detection import Detection, detect, known
from wiper_cli.audit.judgement import called
from wiper_cli.audit.measure import Measurement, TriggerRates
from wiper_cli.audit.planning import Planned, planned
from wiper_cli.audit.subject import Notes, Reporter, Subject
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.images.folder import read_folder
from wiper_cli.images.splits import Part
from wiper_cli.rates import Rate
from wiper_cli.verdict import Finding, Problem, Severity, Verdict


def plan_of(request: requests.ScanRequest | requests.PurifyRequest, subject: Subject) -> Planned | None:
    """The plan, where any detector was asked for."""
    known(request.detectors)
    if not request.detectors:
        return None
    budget, count = (
        (request.budget, request.canaries) if isinstance(request, requests.ScanRequest) else (None, 0)
    )
    return planned(subject.classifier, subject.clean, request.detectors, request.effort, budget, count)


def scan_of(
    request: requests.ScanRequest | requests.PurifyRequest,
    subject: Subject,
    report: Reporter,
    notes: Notes,
    ahead: Planned | None,
    heard: Callable[[Detection], None] = lambda _: None,
    done: Mapping[str, Evidence] | None = None,
) -> Detection:
    """Runs the detectors that were asked for, and says which were not."""
    for name in DETECTORS:
        if name not in request.detectors:
            notes.omit(f"detector {name}", "It was not asked for.")
    classifier, names = subject.classifier, subject.class_names
    settings = ahead.detectors if ahead else {}
    return detect(
        classifier,
        subject.clean,
        request.detectors,
        names,
        request.seed,
        report,
        notes.stage,
        settings,
        heard,
        done,
        ahead.rate if ahead else None,
    )


def images_of(path: Path, request: requests.Examination[Any], subject: Subject) -> Part:
    """At most ``max_images`` images of another folder, prepared as the clean ones are."""
    folder = read_folder(path, subject.model.classes, subject.model.class_names, known=subject.folder.numbers)
    # Sorted by class: where not all are taken, each class gives its share.
    kept = range(0, len(folder), -(-len(folder) // request.max_images))
    part = folder.load(subject.preprocessing.geometry, kept)
    if not len(part):
        raise Problem(f"{path}: no image in it could be read.")
    return part


def unless_doubtful(subject: Subject, verdict: Verdict, sentence: str) -> tuple[Verdict, str]:
    """The same, but that nothing found under a preprocessing or an order that nothing decided is no verdict."""
    if verdict is not Verdict.NO_FINDING or not subject.doubt:
        return verdict, sentence
    return Verdict.INCOMPLETE, f"No verdict: {subject.doubt} Until then: {sentence}"


def asked(measured: Measurement, class_names: Sequence[str]) -> Iterator[Finding]:
    """A finding for every trigger whose success depends on how the images that carry it are asked about."""
    for trigger in measured.triggers:
        leads = (
            f"The {trigger.origin} trigger {trigger.family} sends {percent(trigger.asr)} of the images to "
            f"{led(trigger, class_names)}"
        )
        evidence = {"asr": trigger.asr.value, "images": trigger.asr.n, "runtime": measured.asked.runtime}
        place = place_of(trigger)
        if trigger.batched is not None:
            sentence = (
                f"{leads} one by one, and {percent(trigger.batched)} in batches of {measured.asked.batch}."
            )
            evidence["asr_in_batches"] = trigger.batched.value
            yield Finding("WIPER-A02", Severity.HIGH, sentence, evidence, place)
        if trigger.opened is not None:
            sentence = (
                f"{leads} where {measured.asked.runtime} serves the file, and {percent(trigger.opened)} of "
                f"{trigger.opened.n} in the network that was opened, asked as scans ask it."
            )
            yield Finding(
                "WIPER-A01", Severity.HIGH, sentence, {**evidence, "asr_opened": trigger.opened.value}, place
            )


def led(trigger: TriggerRates, class_names: Sequence[str]) -> str:
    """Where it sends images."""
    return "another class each" if trigger.target is None else called(trigger.target, class_names)


def place_of(trigger: TriggerRates) -> dict[str, Any]:
    return {} if trigger.target is None else {"class": trigger.target}


def percent(rate: Rate) -> str:
    return "not measured" if rate.value is None else f"{100 * rate.value:.1f} %"
