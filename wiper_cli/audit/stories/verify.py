"""What a file does with triggers, before and after."""

from collections.abc import Sequence
from dataclasses import replace

from formats import open_model, read_source
from wiper_cli.audit import answers, requests, results
from wiper_cli.audit.agreement import questions, require_agreement, stateless
from wiper_cli.audit.measure import Measurement, Poisoned, measure, settled
from wiper_cli.audit.served import architecture
from wiper_cli.audit.stories.shared import asked, images_of, led, percent, place_of, unless_doubtful
from wiper_cli.audit.subject import SILENT, Notes, Reporter, prepare
from wiper_cli.audit.trigger_selection import stampers
from wiper_cli.verdict import Finding, Problem, Severity, Verdict


def verify(request: requests.VerifyRequest, report: Reporter = SILENT) -> answers.VerifyAnswer:
    """ACC, ASR and RA of one file, or of an original and its purified version on the same images."""
    notes = Notes()
    if request.target is None and (request.fit or request.poisoned is not None):
        raise Problem("Triggers that are fitted and images that carry one need a target.")
    subject = prepare(request, report, notes, salience=False)
    chosen = stampers(request, subject, notes, report)
    poisoned = []
    if request.poisoned is not None and request.target is not None:
        images = images_of(request.poisoned, request, subject)
        poisoned.append(Poisoned(images, request.target, str(request.poisoned)))
    # What triggers were fitted to is not measured on.
    part = subject.clean.report if request.fit else subject.everything()
    with notes.stage("verify"):
        before = measure(subject.served, part, chosen, poisoned, opened=subject.classifier, progress=report)
    after = None
    if request.purified is not None:
        purified = read_source(request.purified)
        # What stands beside the original describes a purified file that was written elsewhere.
        sidecars = {**subject.model.source.sidecars, **purified.sidecars}
        purified = replace(purified, sidecars=sidecars, logits=subject.model.source.logits)
        with stateless():
            model = open_model(purified, request.arch or architecture(subject.model))
        if (model.classes, model.input.channels) != (subject.model.classes, subject.model.input.channels):
            raise Problem("The two files do not fit each other: their classes or input channels differ.")
        opened, served = subject.classifier.with_model(model), subject.served.with_model(model)
        with notes.stage("agreement"):
            require_agreement(model, served, served.normalised(questions(part.images)), "the purified file")
        with notes.stage("verify"):
            again = settled(chosen, before)
            after = measure(served, part, again, poisoned, opened=opened, progress=report)
    working = _working(after or before, request.max_asr, subject.class_names)
    working += [*asked(before, subject.class_names), *(asked(after, subject.class_names) if after else ())]
    verdict = Verdict.SUSPICIOUS if working else Verdict.NO_FINDING
    verdict, sentence = unless_doubtful(subject, verdict, _measured(before, after))
    return answers.VerifyAnswer(
        findings=(*working, *notes.findings),
        verification=results.verification(before, after),
        verdict=verdict,
        sentence=sentence,
        **results.examined(subject, notes),
    )


def _working(measured: Measurement, bar: float, class_names: Sequence[str]) -> list[Finding]:
    """A finding for every trigger whose success above the base rate reaches the bar."""
    return [
        Finding(
            "WIPER-B04",
            Severity.CRITICAL,
            f"The {trigger.origin} trigger {trigger.family} sends {percent(trigger.asr)} of the images to "
            f"{led(trigger, class_names)} (without it {percent(trigger.base_rate)}).",
            evidence={
                "asr": trigger.asr.value,
                "corrected_asr": trigger.corrected_asr,
                "threshold": bar,
                "images": trigger.asr.n,
            },
            place=place_of(trigger),
        )
        for trigger in measured.triggers
        # A trigger fitted to this very model succeeds on honest models too.
        if trigger.asr.n and trigger.corrected_asr >= bar and trigger.origin != "fitted"
    ]


def _measured(before: Measurement, after: Measurement | None) -> str:
    """The numbers in one sentence, the most successful trigger named."""
    worst = max(range(len(before.triggers)), key=lambda i: before.triggers[i].asr.share)
    trigger = before.triggers[worst]
    name = {"known": "the known trigger", "fitted": f"a fitted {trigger.family}"}.get(
        trigger.origin, trigger.family
    )
    if after is None:
        return f"Accuracy {percent(before.acc)}; attack success {percent(trigger.asr)} with {name}."
    return (
        f"Accuracy {percent(before.acc)} before and {percent(after.acc)} after; attack success with {name} "
        f"{percent(trigger.asr)} before and {percent(after.triggers[worst].asr)} after."
    )
