"""Rounds of a purification, from request to answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from formats import Edit
from wiper_cli.audit import answers, branches, requests, results, rounds
from wiper_cli.audit.acceptance import accept
from wiper_cli.audit.detection import Detection, detect, look_closely, pending, sample_of
from wiper_cli.audit.judgement import called
from wiper_cli.audit.measure import Stamper, measure
from wiper_cli.audit.planning import Planned
from wiper_cli.audit.rounds import Finds, Look, Round
from wiper_cli.audit.stories.shared import asked, images_of, plan_of, scan_of
from wiper_cli.audit.subject import SILENT, Notes, Reporter, Subject, prepare
from wiper_cli.classifier import Classifier
from wiper_cli.detectors import PROBE_SEED_OFFSET
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.images.splits import Part
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.training import live_norms
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict

#: Said where a purification could not be judged.
NOTHING_TO_GO = (
    "The scan found nothing, so no purification could be seen to remove anything, and none was tried; not every "
    "backdoor is found. --accept-unverified tries and writes it all the same, --target names a class to be wary of."
)


def purify(
    request: requests.PurifyRequest,
    report: Reporter = SILENT,
    interim: Callable[[answers.PurifyAnswer], None] = lambda _: None,
) -> answers.PurifyAnswer:
    """Rounds of the method and of a scan of what it made, until two outcomes in a row are silent.

    The purifier sees whatever scans ever recovered and most of a sample of stamps that trigger the accused classes. Its
    outcome is scanned as the file was, with other seeds, and asked probes, drawn anew in each round, that the purifier
    did not train against. No detector and no probe may fire, and nothing that was found work, neither in the file nor
    in the outcome, of the sample the part that the purifier did not see. The next round unlearns what that scan found,
    too, and goes on from there (:func:`wiper_cli.audit.rounds.going_on`); an outcome that no later round bettered has
    to stand what these found as well. A branch in the graph ends it before any work: no training removes one. So does a
    scan that finds nothing, unless the request names a target, brings triggered images, or accepts what nothing
    verified. ``interim`` is told before the work, after each detector of the first scan, and after each round what is
    the answer if nothing follows; it holds nothing that could be written.
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
    triggered = None if request.triggered is None else images_of(request.triggered, request, subject)

    ahead = plan_of(request, subject)
    done: list[Round] = []
    most = rounds.most(request, len(subject.clean.report))

    def standing(found: Detection) -> None:
        interim(_unfinished(request, subject, ahead, graph, found, done, notes))

    if ahead:
        standing(pending(ahead.detectors, subject.classifier.classes, rate=ahead.rate))
    found = scan_of(request, subject, report, notes, ahead, standing)
    fired = any(piece.fired for piece in found.evidence)
    if ahead and not (fired or request.targets or request.triggered or request.accept_unverified):
        raise Problem(NOTHING_TO_GO, ExitCode.NO_VERDICT, (*graph.findings, *notes.findings))
    known = Finds(request.targets).scanned(found)
    known = sampled(request, subject.classifier, subject, ahead, known, request.seed, report, notes)
    while len(done) < most and not rounds.settled(done):
        if done:
            report.log(f"Round {len(done)}: {done[-1].reason}")
            standing(found)
        look = Look(found, known) if not done else done[-1].again
        told = _InRound(report, len(done) + 1, most)
        done.append(_round(request, subject, ahead, look, triggered, done, told, notes))
    if rounds.best(done) is not done[-1]:
        done = [_with_later_finds(request, subject, one, done[-1], report, notes) for one in done]
    kept = rounds.best(done)
    accepted, reason = kept.accepted, kept.reason
    notes.findings += [*asked(kept.before, subject.class_names), *asked(kept.after, subject.class_names)]
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
        sentence=_purified(reason, accepted, kept.again.finds, subject.class_names, _removal(request, ahead)),
        edit=kept.edit,
        expected=results.expectation(subject.classifier.with_edit(kept.edit), subject.clean.report.images),
        architecture=subject.model.architecture.name,
        logits=subject.model.source.logits,
        **results.examined(subject, notes),
    )


class _InRound:
    """A reporter that says the round, too."""

    def __init__(self, report: Reporter, number: int, most: int) -> None:
        self._report = report
        self._round = f"round {number} of up to {most}: " if most > 1 else ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._report(self._round + stage, done, total)

    def log(self, sentence: str) -> None:
        self._report.log(sentence)


def _unfinished(
    request: requests.PurifyRequest,
    subject: Subject,
    ahead: Planned | None,
    graph: branches.Branches,
    found: Detection,
    done: Sequence[Round],
    notes: Notes,
) -> answers.PurifyAnswer:
    """What stands if nothing follows what was ``found`` in the file and the rounds ``done``: nothing is accepted."""
    kept = rounds.best(done) if done else None
    reason = (
        f"The purification ended in round {len(done) + 1}, before there were two outcomes that nothing objects to."
        if done
        else "It ended before the first round of the purification did."
    )
    verdict = found.judged.verdict
    plan = ""
    if ahead:
        most = rounds.most(request, len(subject.clean.report))
        plan = (
            f"{ahead.sentence} So much for the scan of the file. Rounds follow, {most} at most, of training and "
            + ("of a scan of what it made." if most > 1 else "of probes.")
        )
    return answers.PurifyAnswer(
        findings=(*graph.findings, *found.judged.findings, *notes.findings),
        detection=results.shown_detection(subject, found.evidence, found.judged.suspects, ahead),
        verification=results.verification(kept.before, kept.after, accepted=False, reason=reason)
        if kept
        else None,
        purification=results.purification(
            subject.model, request.method, replace(kept, accepted=False, reason=reason), rounds.shown(done)
        )
        if kept
        else None,
        verdict=Verdict.INCOMPLETE if verdict is Verdict.NO_FINDING else verdict,
        sentence=f"{found.judged.sentence} {reason} Nothing was written.",
        edit=Edit({}),
        expected={},
        architecture=subject.model.architecture.name,
        complete=False,
        plan=plan,
        **results.examined(subject, notes),
    )


def _round(
    request: requests.PurifyRequest,
    subject: Subject,
    ahead: Planned | None,
    look: Look,
    triggered: Part | None,
    done: Sequence[Round],
    report: Reporter,
    notes: Notes,
) -> Round:
    """One more round after those that are ``done``, with what ``look`` found where they ended."""
    began = time.monotonic()
    classifier, clean, finds = subject.classifier, subject.clean, look.finds
    seed = rounds.seed_of(request, len(done))
    with notes.stage("purify"):
        begun = rounds.going_on(done, request.max_accuracy_drop)
        student = classifier.with_edit(begun) if begun else classifier
        task = Task(student, clean, finds.suspects, finds.unlearned, report, seed, triggered, request.live)
        purified = request.method.run(task)
    edit = rounds.joined(begun, purified.edit)
    edited = classifier.with_edit(edit)
    asked = rounds.anew(ahead.probes(finds.accused), len(done)) if ahead else {}
    probes = look_closely(asked, edited, clean, seed + PROBE_SEED_OFFSET, report, notes.stage)
    again = look_again(request, subject, ahead, edited, look, probes, len(done) + 1, report, notes)
    with notes.stage("verify"):
        chosen = [Stamper.recovered(one) for one in again.finds.measured]
        before = measure(subject.served, clean.report, chosen, opened=classifier, progress=report)
        served = subject.served.with_edit(edit)
        after = measure(served, clean.report, chosen, opened=edited, progress=report)
    one = judged(request, Round(look, again, purified, edit, before, after, probes))
    return replace(one, seconds=round(time.monotonic() - began, 3))


def look_again(
    request: requests.PurifyRequest,
    subject: Subject,
    ahead: Planned | None,
    edited: Classifier,
    look: Look,
    probes: Sequence[Evidence],
    number: int,
    report: Reporter,
    notes: Notes,
) -> Look:
    """What a scan of the outcome ``edited`` of round ``number``, from 1, finds, after what ``look`` and its probes did;
    the same where there is none."""
    if ahead is None or not rounds.looks(request, len(subject.clean.report)):
        return look
    settings, names = rounds.anew(ahead.detectors, number), subject.class_names
    seed = rounds.seed_of(request, number)
    found = detect(edited, subject.clean, request.detectors, names, seed, report, notes.stage, settings)
    finds = look.finds.scanned(found, [one for one in probes if one.ran and one.fired])
    return Look(found, sampled(request, edited, subject, ahead, finds, seed, report, notes), new=True)


def sampled(
    request: requests.PurifyRequest,
    current: Classifier,
    subject: Subject,
    ahead: Planned | None,
    finds: Finds,
    seed: int,
    report: Reporter,
    notes: Notes,
) -> Finds:
    """With a sample of stamps that trigger the accused classes of ``current``."""
    usual = ahead.detectors.get(ShapeProbe.name) if ahead else None
    sought = list(finds.accused) if request.detectors else []
    return finds.sampled(*sample_of(current, subject.clean, sought, seed, report, notes.stage, usual))


def judged(request: requests.PurifyRequest, one: Round, last: Round | None = None) -> Round:
    """With the answer whether its outcome can be accepted; ``last``: of the rounds that accused classes."""
    accepted, reason = accept(
        one.before,
        one.after,
        one.probes,
        request.max_accuracy_drop,
        (last or one).again.finds.accused,
        request.accept_unverified,
        one.again.found.evidence if one.again.new else None,
    )
    return replace(one, accepted=accepted, reason=reason)


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
        known = [Stamper.recovered(find) for find in last.again.finds.measured]
        after = measure(served, subject.clean.report, known, opened=opened, progress=report)
    return judged(request, replace(one, before=last.before, after=after), last)


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


def _purified(reason: str, accepted: bool, finds: Finds, class_names: Sequence[str], removal: str) -> str:
    """What was suspected, what became of it, and, where it is accepted, how far that can be trusted."""
    names = ", ".join(called(target, class_names) for target in finds.accused)
    mapped = any(one.mapping for one in finds.recovered)
    towards = [f"towards {names}"] * bool(finds.accused) + ["from each class to another one"] * mapped
    suspected = (
        f"A backdoor {' and '.join(towards)} was suspected" if towards else "No backdoor was suspected"
    )
    return f"{suspected}. {reason} {removal if accepted else 'Nothing was written.'}".rstrip()
