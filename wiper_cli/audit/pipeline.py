"""The story of inspect, scan, purify and verify from request to answer; the command's worker and Python call it.

The steps stand in modules of their own, on a network and images in memory: :mod:`~wiper_cli.audit.subject` prepares,
:mod:`~wiper_cli.audit.detection` scans and judges, the settings of a method purify, :mod:`~wiper_cli.audit.measure`
measures, :mod:`~wiper_cli.audit.acceptance` decides,
:mod:`~wiper_cli.audit.rounds` says what another round knows and which one stands.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from formats import open_model, read_source, serve
from formats.safetensors.rebuild import rebuilt as moved
from formats.tensors import from_bytes
from wiper_cli.audit import answers, branches, requests, results, rounds
from wiper_cli.audit.acceptance import accept
from wiper_cli.audit.agreement import noise, questions, require_agreement
from wiper_cli.audit.canaries import Canary, canaries, power
from wiper_cli.audit.detection import Detection, detect, known, look_closely, pending, sample_of
from wiper_cli.audit.explanation import explain
from wiper_cli.audit.judgement import called, judge
from wiper_cli.audit.keeping import keep, restore
from wiper_cli.audit.measure import Measurement, Poisoned, Stamper, TriggerRates, measure, settled
from wiper_cli.audit.planning import Planned, planned
from wiper_cli.audit.rounds import Finds, Round
from wiper_cli.audit.served import Served, architecture
from wiper_cli.audit.subject import SILENT, Notes, Reporter, Subject, one_pass, open_file, prepare, ready
from wiper_cli.audit.trigger_selection import stampers
from wiper_cli.detectors import DETECTORS, PROBE_SEED_OFFSET
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.images.folder import read_folder
from wiper_cli.images.splits import Part
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.training import live_norms
from wiper_cli.rates import Rate
from wiper_cli.verdict import KIND_NAMES, ExitCode, Finding, Problem, Severity, Verdict

A = TypeVar("A")

#: Said where a purification could not be judged.
NOTHING_TO_GO = (
    "The scan found nothing, so no purification could be seen to remove anything, and none was tried; not every "
    "backdoor is found. --accept-unverified tries and writes it all the same, --target names a class to be wary of."
)

#: Largest difference of logits after saving, relative to the largest logit, by the dtype the file computes in.
TOLERANCE: Mapping[str, float] = {"F16": 2e-2, "BF16": 5e-2, "I8": 5e-2, "U8": 5e-2}


def inspect(request: requests.InspectRequest, report: Reporter = SILENT) -> answers.InspectAnswer:
    """What the file is; no images but noise."""
    notes = Notes()
    model = open_file(request, report, notes)
    with notes.stage("agreement"):
        require_agreement(model, Served(model, (0.0,), (1.0,), request.arch), noise(model))
    sentence = (
        f"{KIND_NAMES[model.kind]} file, {model.architecture.name} (by {model.architecture.how}) with {model.classes} "
        f"classes; it can be opened {'head-only' if model.head_only else 'in full'}."
    )
    return answers.InspectAnswer(model=results.described(model), sentence=sentence, **results.remarks(notes))


def plan(request: requests.PlanRequest, report: Reporter = SILENT) -> answers.PlanAnswer:
    """What a scan would do and what that would take here."""
    notes = Notes()
    known(request.detectors)
    subject = ready(request, report, notes)
    found = planned(
        subject.classifier, subject.clean, request.detectors, request.effort, request.budget, request.canaries
    )
    return answers.PlanAnswer(
        model=results.described(subject.model),
        sentence=found.sentence,
        plan=found.as_dict(),
        **results.remarks(notes),
    )


def scan(
    request: requests.ScanRequest,
    report: Reporter = SILENT,
    interim: Callable[[answers.ScanAnswer], None] = lambda _: None,
) -> answers.ScanAnswer:
    """The graph, salience, detectors, verdict; what triggered images show, which the verdict does not see. ``interim``
    is told before the work and after each detector what is the answer if nothing follows."""
    notes = Notes()
    known(request.detectors)
    graph = branches.read(request, report, notes)
    with graph.told():
        subject = ready(request, report, notes)
    with notes.stage("graph"):
        graph = graph.confirm(subject.served, subject.clean.select.images, subject.class_names, report)
    ahead = _planned(request, subject)
    done = restore(request.done, ahead.detectors) if ahead else {}
    triggered = None if request.explain is None else _images(request.explain, request, subject)

    def answer(
        found: Detection,
        explanation: Any = None,
        complete: bool = True,
        planted: Sequence[Canary] | None = None,
    ) -> answers.ScanAnswer:
        verdict, sentence = _settled(subject, *graph.weigh(found.judged))
        return answers.ScanAnswer(
            findings=(*graph.findings, *found.judged.findings, *notes.findings),
            detection=results.shown_detection(subject, found.evidence, found.judged.suspects, ahead, planted),
            explanation=explanation,
            verdict=verdict,
            sentence=sentence,
            complete=complete,
            plan=ahead.sentence if ahead else "",
            kept=keep(found.evidence, ahead.detectors) if ahead and not complete else answers.Kept(),
            taken=tuple(done),
            **results.examined(subject, notes),
        )

    def heard(found: Detection) -> None:
        interim(answer(found, complete=False))

    if ahead:
        heard(pending(ahead.detectors, subject.classifier.classes, rate=ahead.rate))
    with graph.told(), notes.stage("salience"):
        one_pass(subject, request, True, report, notes)
    found = _detect(request, subject, report, notes, ahead, heard, done)
    planted, classifier = None, subject.classifier
    silent = ahead and found.judged.verdict is Verdict.NO_FINDING
    if request.canaries and silent and classifier.network is None:
        notes.omit("canaries", "They are planted by training, and this file was opened head-only.")
    elif request.canaries and ahead and silent:
        with notes.stage("canaries"):
            planted = canaries(
                classifier, subject.clean, ahead.detectors, request.canaries, request.seed, report
            )
        said = ahead.rate, power(planted)
        found = replace(found, judged=judge(found.evidence, classifier.classes, subject.class_names, *said))
    elif request.canaries:
        notes.omit("canaries", "They say how far a silence reaches, and this scan was not silent.")
    explanation = None
    if request.explain is not None and triggered is not None:
        with notes.stage("explain"):
            explanation = explain(subject, str(request.explain), triggered, notes)
    return answer(found, explanation, planted=planted)


def purify(request: requests.PurifyRequest, report: Reporter = SILENT) -> answers.PurifyAnswer:
    """Rounds of a scan, the method, and the question whether its outcome can be accepted, until two looks are silent.

    The first scan is of the original file, each later one of what the round before left, with other seeds; the method
    goes on from there, too (:func:`wiper_cli.audit.rounds.going_on`). The purifier
    sees whatever scans ever recovered and most of a sample of stamps that trigger the accused classes. The acceptance
    measures the rest of that sample, and also asks probes, drawn anew in each round, that the purifier did not train
    against; an outcome that no later round bettered has to stand what these found, too. A branch in the graph ends it
    before any work: no training removes one. So does a scan that finds nothing, unless the request names a target,
    brings triggered images, or accepts what nothing verified.
    """
    notes = Notes()
    graph = branches.read(request, report, notes)
    if graph.standing:
        raise Problem(graph.refusal, ExitCode.NO_VERDICT, graph.findings, Verdict.SUSPICIOUS)
    subject = prepare(request, report, notes)
    if subject.doubt:
        raise Problem(subject.doubt, ExitCode.NO_VERDICT, notes.findings)
    with notes.stage("graph"):
        graph = graph.confirm(subject.served, subject.clean.select.images, subject.class_names, report)
    if graph.standing:
        raise Problem(graph.refusal, ExitCode.NO_VERDICT, graph.findings, Verdict.SUSPICIOUS)
    _require(request, subject)
    triggered = None if request.triggered is None else _images(request.triggered, request, subject)

    ahead = _planned(request, subject)
    found = _detect(request, subject, report, notes, ahead)
    fired = any(piece.fired for piece in found.evidence)
    if ahead and not (fired or request.targets or request.triggered or request.accept_unverified):
        raise Problem(NOTHING_TO_GO, ExitCode.NO_VERDICT, (*graph.findings, *notes.findings))
    done: list[Round] = []
    while len(done) < rounds.most(request, len(subject.clean.report)) and not rounds.settled(done):
        if done:
            report.log(f"Round {len(done)}: {done[-1].reason}")
        done.append(_round(request, subject, ahead, found, triggered, done, report, notes))
    if rounds.best(done) is not done[-1]:
        done = [_with_later_finds(request, subject, one, done[-1], report, notes) for one in done]
    kept = rounds.best(done)
    accepted, reason = kept.accepted, kept.reason
    notes.findings += [*_asked(kept.before, subject.class_names), *_asked(kept.after, subject.class_names)]
    if not accepted:
        notes.findings.append(Finding("WIPER-P01", Severity.HIGH, reason))
    return answers.PurifyAnswer(
        findings=(*graph.findings, *found.judged.findings, *notes.findings),
        detection=results.shown_detection(subject, found.evidence, found.judged.suspects, ahead),
        verification=results.verification(
            kept.before,
            kept.after,
            [results.shown_detector(subject, piece) for piece in kept.probes],
            accepted,
            reason,
        ),
        purification=results.purification(subject.model, request.method, kept, rounds.shown(done)),
        verdict=found.judged.verdict,
        sentence=_purified(reason, accepted, kept.finds, subject.class_names, _removal(request, ahead)),
        edit=kept.edit,
        expected=results.expectation(subject.classifier.with_edit(kept.edit), subject.clean.report.images),
        architecture=subject.model.architecture.name,
        logits=subject.model.source.logits,
        **results.examined(subject, notes),
    )


def _round(
    request: requests.PurifyRequest,
    subject: Subject,
    ahead: Planned | None,
    first: Detection,
    triggered: Part | None,
    done: Sequence[Round],
    report: Reporter,
    notes: Notes,
) -> Round:
    """One more round after those that are ``done``; ``first``: the scan of the original."""
    began = time.monotonic()
    classifier, clean, seed = subject.classifier, subject.clean, rounds.seed_of(request, len(done))
    current, looked, finds = classifier, first, Finds(request.targets).scanned(first)
    if done and ahead:
        current = classifier.with_edit(done[-1].edit)
        settings, names = rounds.anew(ahead.detectors, len(done)), subject.class_names
        looked = detect(current, clean, request.detectors, names, seed, report, notes.stage, settings)
        finds = done[-1].finds.scanned(looked, done[-1].fired)
    usual = ahead.detectors.get(ShapeProbe.name) if ahead else None
    sought = list(finds.accused) if request.detectors else []
    finds = finds.sampled(*sample_of(current, clean, sought, seed, report, notes.stage, usual))
    chosen = [Stamper.recovered(one) for one in finds.measured]
    with notes.stage("verify"):
        before = measure(subject.served, clean.report, chosen, opened=classifier, progress=report)
    with notes.stage("purify"):
        begun = rounds.going_on(done, request.max_accuracy_drop)
        student = classifier.with_edit(begun) if begun else classifier
        task = Task(student, clean, finds.suspects, finds.unlearned, report, seed, triggered, request.live)
        purified = request.method.run(task)
    edit = rounds.joined(begun, purified.edit)
    edited = classifier.with_edit(edit)
    with notes.stage("verify"):
        served = subject.served.with_edit(edit)
        after = measure(served, clean.report, chosen, opened=edited, progress=report)
    asked = rounds.anew(ahead.probes(finds.accused), len(done)) if ahead else {}
    again = look_closely(asked, edited, clean, seed + PROBE_SEED_OFFSET, report, notes.stage)
    accepted, reason = accept(
        before, after, again, request.max_accuracy_drop, finds.accused, request.accept_unverified
    )
    seconds = round(time.monotonic() - began, 3)
    return Round(looked, finds, purified, edit, before, after, again, accepted, reason, seconds)


def _with_later_finds(
    request: requests.PurifyRequest,
    subject: Subject,
    one: Round,
    last: Round,
    report: Reporter,
    notes: Notes,
) -> Round:
    """An accepted round, judged again by all triggers that are known after the ``last`` one."""
    if one is last or not one.accepted:
        return one
    with notes.stage("verify"):
        served, opened = subject.served.with_edit(one.edit), subject.classifier.with_edit(one.edit)
        known = [Stamper.recovered(find) for find in last.finds.measured]
        after = measure(served, subject.clean.report, known, opened=opened, progress=report)
    accepted, reason = accept(
        last.before,
        after,
        one.probes,
        request.max_accuracy_drop,
        last.finds.accused,
        request.accept_unverified,
    )
    return replace(one, before=last.before, after=after, accepted=accepted, reason=reason)


def verify(request: requests.VerifyRequest, report: Reporter = SILENT) -> answers.VerifyAnswer:
    """ACC, ASR and RA of one file, or of an original and its purified version on the same images."""
    notes = Notes()
    if request.target is None and (request.fit or request.poisoned is not None):
        raise Problem("Triggers that are fitted and images that carry one need a target.")
    subject = prepare(request, report, notes, salience=False)
    chosen = stampers(request, subject, notes, report)
    poisoned = []
    if request.poisoned is not None and request.target is not None:
        images = _images(request.poisoned, request, subject)
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
    working += [*_asked(before, subject.class_names), *(_asked(after, subject.class_names) if after else ())]
    verdict = Verdict.SUSPICIOUS if working else Verdict.NO_FINDING
    verdict, sentence = _settled(subject, verdict, _measured(before, after))
    return answers.VerifyAnswer(
        findings=(*working, *notes.findings),
        verification=results.verification(before, after),
        verdict=verdict,
        sentence=sentence,
        **results.examined(subject, notes),
    )


def check(request: requests.CheckRequest, report: Reporter = SILENT) -> answers.CheckAnswer:
    """Runs a written file through the runtime that serves it and compares its logits with the expected ones."""
    report("check the written file in its own runtime", 0, 0)
    expected = (request.expected[name] for name in ("inputs", "outputs"))
    x, outputs = (from_bytes(one.data, one.dtype, one.shape) for one in expected)
    source = replace(read_source(request.model), logits=request.logits)
    served = serve(source, request.arch)(x).float().flatten(1)
    if served.shape != outputs.shape or not bool(served.isfinite().all()):
        return answers.CheckAnswer(largest_logit_difference=None, agrees=False)
    largest = float((served - outputs).abs().max()) / max(1.0, float(outputs.abs().max()))
    tolerance = max((TOLERANCE.get(dtype, 1e-3) for dtype in request.dtypes), default=1e-3)
    return answers.CheckAnswer(largest_logit_difference=largest, agrees=largest <= tolerance)


def rebuild(request: requests.RebuildRequest, report: Reporter = SILENT) -> answers.RebuildAnswer:
    """The file's tensors in a definition that the user trusts; nothing of the file's graph is looked at."""
    report("move the tensors", 0, 0)
    found = moved(read_source(request.model), request.arch or "")
    return answers.RebuildAnswer(
        architecture=found.architecture, tensors=found.tensors, moved=found.moved, left=found.left
    )


_STORIES: Mapping[type, Callable[..., Any]] = {
    requests.InspectRequest: inspect,
    requests.PlanRequest: plan,
    requests.ScanRequest: scan,
    requests.PurifyRequest: purify,
    requests.VerifyRequest: verify,
    requests.CheckRequest: check,
    requests.RebuildRequest: rebuild,
}


def run(
    request: requests.Request[A], report: Reporter = SILENT, interim: Callable[[Any], None] = lambda _: None
) -> A:
    """The answer to ``request``, by its type; ``interim``: as of :func:`scan`. Raises :class:`Problem` or a
    ``FormatError`` where there is none."""
    more = {"interim": interim} if isinstance(request, requests.ScanRequest) else {}
    answer: A = _STORIES[type(request)](request, report, **more)
    return answer


def _planned(request: requests.ScanRequest | requests.PurifyRequest, subject: Subject) -> Planned | None:
    """The plan, where any detector was asked for."""
    known(request.detectors)
    if not request.detectors:
        return None
    budget, count = (
        (request.budget, request.canaries) if isinstance(request, requests.ScanRequest) else (None, 0)
    )
    return planned(subject.classifier, subject.clean, request.detectors, request.effort, budget, count)


def _detect(
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


def _removal(request: requests.PurifyRequest, ahead: Planned | None) -> str:
    """A sentence on how often a backdoor outlives what is accepted; empty where no rate is known."""
    usual = (requests.PurifyRequest.max_accuracy_drop, requests.PurifyRequest.accept_unverified)
    asked = (request.max_accuracy_drop, request.accept_unverified)
    known = asked == usual and request.method == next(iter(METHODS.values()))()
    return ahead.rate.removal if known and ahead and ahead.rate else ""


def _require(request: requests.PurifyRequest, subject: Subject) -> None:
    """Refuses, before the long work, a method or a target that this model or this call cannot serve."""
    method, model = request.method, subject.model
    for target in request.targets:
        if target >= model.classes:
            raise Problem(f"--target {target} is no class of the model; it has {model.classes}, from 0.")
    method.require(model, request.live, request.triggered is not None)
    if request.live and model.network is not None:
        live_norms(model, model.network)
    if "head" in method.needs and (model.head is None or not model.head.linear):
        raise Problem(
            "This model has no linear head to train alone: leave out --train head.", ExitCode.NO_VERDICT
        )


def _images(path: Path, request: requests.Examination[Any], subject: Subject) -> Part:
    """At most ``max_images`` images of another folder, prepared as the clean ones are."""
    folder = read_folder(path, subject.model.classes, subject.model.class_names, known=subject.folder.numbers)
    # Sorted by class: where not all are taken, each class gives its share.
    kept = range(0, len(folder), -(-len(folder) // request.max_images))
    part = folder.load(subject.preprocessing.geometry, kept)
    if not len(part):
        raise Problem(f"{path}: no image in it could be read.")
    return part


def _settled(subject: Subject, verdict: Verdict, sentence: str) -> tuple[Verdict, str]:
    """The same, but that nothing found under a preprocessing or an order that nothing decided is no verdict."""
    if verdict is not Verdict.NO_FINDING or not subject.doubt:
        return verdict, sentence
    return Verdict.INCOMPLETE, f"No verdict: {subject.doubt} Until then: {sentence}"


def _working(measured: Measurement, bar: float, class_names: Sequence[str]) -> list[Finding]:
    """A finding for every trigger whose success above the base rate reaches the bar."""
    return [
        Finding(
            "WIPER-B04",
            Severity.CRITICAL,
            f"The {trigger.origin} trigger {trigger.family} sends {_percent(trigger.asr)} of the images to "
            f"{_led(trigger, class_names)} (without it {_percent(trigger.base_rate)}).",
            evidence={
                "asr": trigger.asr.value,
                "corrected_asr": trigger.corrected_asr,
                "threshold": bar,
                "images": trigger.asr.n,
            },
            place=_place(trigger),
        )
        for trigger in measured.triggers
        # A trigger fitted to this very model succeeds on honest models too.
        if trigger.asr.n and trigger.corrected_asr >= bar and trigger.origin != "fitted"
    ]


def _asked(measured: Measurement, class_names: Sequence[str]) -> Iterator[Finding]:
    """A finding for every trigger whose success depends on how the images that carry it are asked about."""
    for trigger in measured.triggers:
        leads = (
            f"The {trigger.origin} trigger {trigger.family} sends {_percent(trigger.asr)} of the images to "
            f"{_led(trigger, class_names)}"
        )
        evidence = {"asr": trigger.asr.value, "images": trigger.asr.n, "runtime": measured.asked.runtime}
        place = _place(trigger)
        if trigger.batched is not None:
            sentence = (
                f"{leads} one by one, and {_percent(trigger.batched)} in batches of {measured.asked.batch}."
            )
            evidence["asr_in_batches"] = trigger.batched.value
            yield Finding("WIPER-A02", Severity.HIGH, sentence, evidence, place)
        if trigger.opened is not None:
            sentence = (
                f"{leads} where {measured.asked.runtime} serves the file, and {_percent(trigger.opened)} of "
                f"{trigger.opened.n} in the network that was opened, asked as scans ask it."
            )
            yield Finding(
                "WIPER-A01", Severity.HIGH, sentence, {**evidence, "asr_opened": trigger.opened.value}, place
            )


def _led(trigger: TriggerRates, class_names: Sequence[str]) -> str:
    """Where it sends images."""
    return "another class each" if trigger.target is None else called(trigger.target, class_names)


def _place(trigger: TriggerRates) -> dict[str, Any]:
    return {} if trigger.target is None else {"class": trigger.target}


def _purified(reason: str, accepted: bool, finds: Finds, class_names: Sequence[str], removal: str) -> str:
    """What was suspected, what became of it, and, where it is accepted, how far that can be trusted."""
    names = ", ".join(called(target, class_names) for target in finds.accused)
    mapped = any(one.mapping for one in finds.recovered)
    towards = [f"towards {names}"] * bool(finds.accused) + ["from each class to another one"] * mapped
    suspected = (
        f"A backdoor {' and '.join(towards)} was suspected" if towards else "No backdoor was suspected"
    )
    return f"{suspected}. {reason} {removal if accepted else 'Nothing was written.'}".rstrip()


def _measured(before: Measurement, after: Measurement | None) -> str:
    """The numbers in one sentence, the most successful trigger named."""
    worst = max(range(len(before.triggers)), key=lambda i: before.triggers[i].asr.share)
    trigger = before.triggers[worst]
    name = {"known": "the known trigger", "fitted": f"a fitted {trigger.family}"}.get(
        trigger.origin, trigger.family
    )
    if after is None:
        return f"Accuracy {_percent(before.acc)}; attack success {_percent(trigger.asr)} with {name}."
    return (
        f"Accuracy {_percent(before.acc)} before and {_percent(after.acc)} after; attack success with {name} "
        f"{_percent(trigger.asr)} before and {_percent(after.triggers[worst].asr)} after."
    )


def _percent(rate: Rate) -> str:
    return "not measured" if rate.value is None else f"{100 * rate.value:.1f} %"
