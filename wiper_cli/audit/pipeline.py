"""In the child: the story of inspect, scan, purify and verify, in the order in which a person would tell it.

Every job takes the request as plain data and gives back plain data and, where there are any, tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from formats import apply_edit, open_model, pack_edit, read_source, serve, unpack_edit
from wiper_cli.audit import acceptance, explanation, judgement, trigger_selection
from wiper_cli.audit import measure as measuring
from wiper_cli.audit.results import (
    changed,
    described,
    examined,
    expectation,
    shown_detection,
    shown_detector,
    tensor,
)
from wiper_cli.audit.subject import Job, Notes, Reporter, Subject, open_file, prepare
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import DETECTORS, PROBE_SEED_OFFSET, detector, probes
from wiper_cli.detectors.evidence import Detector, Evidence
from wiper_cli.images.folder import read_folder
from wiper_cli.images.splits import Part
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purifier, Task
from wiper_cli.purifiers.machinery.training import live_norms
from wiper_cli.verdict import KIND_NAMES, ExitCode, Finding, Problem, Severity, Verdict

Result = tuple[dict[str, Any], list[bytes]]

#: Largest difference of logits after saving, relative to the largest logit, by the dtype the file computes in.
TOLERANCE: Mapping[str, float] = {"F16": 2e-2, "BF16": 5e-2, "I8": 5e-2, "U8": 5e-2}


def inspect(job: Job, payload: bytes, report: Reporter) -> Result:
    """What the file is; no images."""
    notes = Notes()
    model = open_file(job, report, notes)
    sentence = (
        f"{KIND_NAMES[model.kind]} file, {model.architecture.name} (by {model.architecture.how}) with {model.classes} "
        f"classes; it can be opened {'head-only' if model.head_only else 'in full'}."
    )
    return notes.result(model=described(model), sentence=sentence), []


def scan(job: Job, payload: bytes, report: Reporter) -> Result:
    """Salience, detectors, verdict; what triggered images show, which the verdict does not see."""
    notes = Notes()
    subject = prepare(job, report, notes)
    triggered = None if job["explain"] is None else _images(job["explain"], job, subject)
    evidence = _detect(subject, job, report, notes)
    judged = judgement.judge(evidence, subject.model.classes, subject.class_names)
    explained = None
    if triggered is not None:
        with notes.stage("explain"):
            explained = explanation.explain(subject, job["explain"], triggered, notes)
    return notes.result(
        **examined(subject),
        findings=[finding.as_dict() for finding in [*judged.findings, *notes.findings]],
        detection=shown_detection(subject, evidence, judged.suspects),
        explanation=explained,
        verdict=judged.verdict.value,
        sentence=judged.sentence,
    ), []


def purify(job: Job, payload: bytes, report: Reporter) -> Result:
    """Suspects, the method, and the question whether its outcome can be accepted.

    The suspects are those of the original file; the purifier sees what the detectors recovered, the acceptance
    also asks probes that the purifier did not train against.
    """
    notes = Notes()
    settings = METHODS[job["method"]](**job["method_settings"])
    subject = prepare(job, report, notes)
    _require(settings, job, subject)
    triggered = None if job["triggered"] is None else _images(job["triggered"], job, subject)
    evidence = _detect(subject, job, report, notes)
    judged = judgement.judge(evidence, subject.model.classes, subject.class_names)
    accused = list(dict.fromkeys([*job["targets"], *judged.accused]))
    recovered = [found for piece in evidence for found in piece.recovered]
    stampers = [measuring.Stamper.recovered(found) for found in recovered if found.target in accused]
    with notes.stage("verify"):
        before = measuring.measure(subject.classifier, subject.clean.report, stampers, progress=report)

    suspects = list(dict.fromkeys([*accused, *judged.suspects]))
    with notes.stage("purify"):
        task = Task(
            subject.classifier,
            subject.clean,
            suspects,
            recovered,
            report,
            job["seed"],
            triggered,
            job["live"],
        )
        purified = settings.run(task)
    classifier = subject.with_model(apply_edit(subject.model, purified.edit))
    with notes.stage("verify"):
        after = measuring.measure(classifier, subject.clean.report, stampers, progress=report)
    again = _probe(subject, classifier, accused, job, report, notes)
    accepted, reason = _decide(job, before, after, again, accused, notes)

    listed = [*judged.findings, *notes.findings]
    result = notes.result(
        **examined(subject),
        findings=[finding.as_dict() for finding in listed],
        detection=shown_detection(subject, evidence, judged.suspects),
        verification={
            "before": before,
            "after": after,
            "der": measuring.der(before, after),
            "probes": [shown_detector(subject, piece) for piece in again],
            "accepted": accepted,
            "reason": reason,
        },
        purification={
            "method": job["method"],
            "settings": asdict(settings),  # type: ignore[call-overload]
            "history": [asdict(epoch) for epoch in purified.history],
            "changed": changed(subject.model, purified.edit),
            "accepted": accepted,
            "reason": reason,
            "output": None,
            "notes": list(purified.notes),
        },
        verdict=judged.verdict.value,
        sentence=_purified(reason, accepted, accused, subject),
    )
    return result, [pack_edit(purified.edit), expectation(subject, classifier)]


def measure(job: Job, payload: bytes, report: Reporter) -> Result:
    """ACC, ASR and RA of one file, or of an original and its purified version on the same images."""
    notes = Notes()
    subject = prepare(job, report, notes, salience=False)
    stampers = trigger_selection.stampers(job, subject, notes, report)
    poisoned = [] if job["poisoned"] is None else [_poisoned(job, subject)]
    # What triggers were fitted to is not measured on.
    part = subject.clean.report if job["fit"] else subject.everything()
    with notes.stage("verify"):
        before = measuring.measure(subject.classifier, part, stampers, poisoned, progress=report)
    after = None
    if job.get("purified"):
        model = open_model(read_source(Path(job["purified"])), job["arch"] or subject.model.architecture.name)
        if (model.classes, model.input.channels) != (subject.model.classes, subject.model.input.channels):
            raise Problem("The two files do not fit each other: their classes or input channels differ.")
        with notes.stage("verify"):
            settled = measuring.settled(stampers, before)
            after = measuring.measure(subject.with_model(model), part, settled, poisoned, progress=report)
    working = _working(after or before, job["max_asr"], subject)
    findings = [*working, *notes.findings]
    return notes.result(
        **examined(subject),
        findings=[finding.as_dict() for finding in findings],
        verification={
            "before": before,
            "after": after,
            "der": measuring.der(before, after) if after else None,
            "probes": [],
            "accepted": None,
            "reason": "",
        },
        verdict=(Verdict.SUSPICIOUS if working else Verdict.NO_FINDING).value,
        sentence=_measured(before, after),
    ), []


def check(job: Job, payload: bytes, report: Reporter) -> Result:
    """Runs a written file through the runtime that serves it and compares its logits with the expected ones."""
    source = read_source(Path(job["model"]))
    report("check the written file in its own runtime", 0, 0)
    expected = unpack_edit(payload).tensors
    x, outputs = tensor(expected["inputs"]), tensor(expected["outputs"])
    served = serve(source, job["arch"])(x).float().flatten(1)
    if served.shape != outputs.shape or not bool(served.isfinite().all()):
        return {"largest_logit_difference": None, "agrees": False}, []
    largest = float((served - outputs).abs().max()) / max(1.0, float(outputs.abs().max()))
    tolerance = max((TOLERANCE.get(dtype, 1e-3) for dtype in job["dtypes"]), default=1e-3)
    return {"largest_logit_difference": largest, "agrees": largest <= tolerance}, []


JOBS: Mapping[str, Callable[[Job, bytes, Reporter], Result]] = {
    "inspect": inspect,
    "scan": scan,
    "purify": purify,
    "verify": measure,
    "check": check,
}


def _require(settings: Purifier, job: Job, subject: Subject) -> None:
    """Refuses, before the long work, a method or a target that this model or this call cannot serve."""
    head = subject.model.head
    if "triggered" in settings.needs and job["triggered"] is None:
        raise Problem(
            f"The method {settings.name} needs images that carry the trigger: give them with --triggered."
        )
    for target in job["targets"]:
        if target >= subject.model.classes:
            raise Problem(
                f"--target {target} is no class of the model; it has {subject.model.classes}, from 0."
            )
    settings.require_live(job["live"])
    if "body" in settings.needs and subject.model.head_only:
        raise Problem(
            f"The method {settings.name} trains the whole network, and this file was opened head-only: try "
            "--method wiper --train head.",
            ExitCode.NO_VERDICT,
        )
    if job["live"] and subject.model.network is not None:
        live_norms(subject.model, subject.model.network)
    if "head" in settings.needs and (head is None or not head.linear):
        raise Problem(
            "This model has no linear head to train alone: leave out --train head.", ExitCode.NO_VERDICT
        )


def _detect(subject: Subject, job: Job, report: Reporter, notes: Notes) -> list[Evidence]:
    """Runs the detectors that were asked for."""
    asked = job["detectors"]
    names = list(DETECTORS) if asked == "all" else [] if asked == "none" else asked.split(",")
    unknown = [name for name in names if name not in DETECTORS]
    if unknown:
        raise Problem(f"There is no detector {unknown[0]!r}; there are {', '.join(DETECTORS)}.")
    for name in DETECTORS:
        if name not in names:
            notes.omit(f"detector {name}", "It was not asked for.")
    return _run(
        {name: detector(name) for name in names}, subject, subject.classifier, job["seed"], report, notes
    )


def _probe(
    subject: Subject, classifier: Classifier, accused: Sequence[int], job: Job, report: Reporter, notes: Notes
) -> list[Evidence]:
    """Asks the purified model what the purifier did not train against."""
    if job["detectors"] == "none":
        return []
    chosen = probes(accused)
    return _run(chosen, subject, classifier, job["seed"] + PROBE_SEED_OFFSET, report, notes)


def _run(
    chosen: Mapping[str, Detector],
    subject: Subject,
    classifier: Classifier,
    seed: int,
    report: Reporter,
    notes: Notes,
) -> list[Evidence]:
    found = []
    for name, one in chosen.items():
        with notes.stage(name):
            evidence = one.run(classifier, subject.clean, report, seed)
        evidence = replace(evidence, name=name, title=one.title)
        found.append(evidence)
    return found


def _decide(
    job: Job,
    before: measuring.Measurement,
    after: measuring.Measurement,
    again: Sequence[Evidence],
    accused: Sequence[int],
    notes: Notes,
) -> tuple[bool, str]:
    """Accepted or not, and why; a refusal becomes a finding."""
    accepted, reason = acceptance.accept(before, after, again, job["max_accuracy_drop"], accused)
    if not any(piece.ran for piece in again) and not after["triggers"]:
        # Only the accuracy was looked at; whether that is enough is the user's to say.
        fell = before["acc"]["value"] - after["acc"]["value"]
        if job["accept_unverified"] and fell < job["max_accuracy_drop"]:
            return True, (
                f"Written unverified, as asked: the accuracy fell by {100 * max(0.0, fell):.1f} points, and nothing "
                "showed whether there was a backdoor or whether it is gone."
            )
    elif accepted and not accused:
        reason += " No class had been suspected, so no removal is claimed."
    if not accepted:
        notes.findings.append(Finding("WIPER-P01", Severity.HIGH, reason))
    return accepted, reason


def _purified(reason: str, accepted: bool, accused: Sequence[int], subject: Subject) -> str:
    """What the original was suspected of, and what became of it."""
    names = ", ".join(judgement.called(target, subject.class_names) for target in accused)
    suspicion_said = f"A backdoor towards {names} was suspected" if accused else "No backdoor was suspected"
    return f"{suspicion_said}. {reason}" if accepted else f"{suspicion_said}. {reason} Nothing was written."


def _poisoned(job: Job, subject: Subject) -> measuring.Poisoned:
    return measuring.Poisoned(_images(job["poisoned"], job, subject), job["target"], job["poisoned"])


def _images(path: str, job: Job, subject: Subject) -> Part:
    """At most ``max_images`` images of another folder, prepared as the clean ones are."""
    folder = read_folder(path, subject.model.classes, subject.model.class_names)
    # Sorted by class: where not all are taken, each class gives its share.
    kept = range(0, len(folder), -(-len(folder) // job["max_images"]))
    part = folder.load(subject.preprocessing.geometry, kept)
    if not len(part):
        raise Problem(f"{path}: no image in it could be read.")
    return part


def _working(measured: measuring.Measurement, bar: float, subject: Subject) -> list[Finding]:
    """A finding for every trigger whose success above the base rate reaches the bar."""
    return [
        Finding(
            "WIPER-B04",
            Severity.CRITICAL,
            f"The {trigger['origin']} trigger {trigger['family']} sends {100 * trigger['asr']['value']:.1f} % of the "
            f"images to {judgement.called(trigger['target'], subject.class_names)} "
            f"(without it {100 * trigger['base_rate']['value']:.1f} %).",
            evidence={
                "asr": trigger["asr"]["value"],
                "corrected_asr": trigger["corrected_asr"],
                "threshold": bar,
                "images": trigger["asr"]["n"],
            },
            place={"class": trigger["target"]},
        )
        for trigger in measured["triggers"]
        if trigger["asr"]["value"] is not None
        and trigger["corrected_asr"] >= bar
        # A trigger fitted to this very model succeeds on honest models too.
        and trigger["origin"] != "fitted"
    ]


def _measured(before: measuring.Measurement, after: measuring.Measurement | None) -> str:
    """The numbers in one sentence, the most successful trigger named."""

    def percent(measured: Mapping[str, Any]) -> str:
        return "not measured" if measured["value"] is None else f"{100 * measured['value']:.1f} %"

    worst = max(range(len(before["triggers"])), key=lambda i: before["triggers"][i]["asr"]["value"] or 0.0)
    trigger = before["triggers"][worst]
    name = {"known": "the known trigger", "fitted": f"a fitted {trigger['family']}"}.get(
        trigger["origin"], trigger["family"]
    )
    if after is None:
        return (
            f"Accuracy {percent(before['acc'])}; attack success {percent(before['triggers'][worst]['asr'])} "
            f"with {name}."
        )
    return (
        f"Accuracy {percent(before['acc'])} before and {percent(after['acc'])} after; attack success with {name} "
        f"{percent(before['triggers'][worst]['asr'])} before and {percent(after['triggers'][worst]['asr'])} after."
    )
