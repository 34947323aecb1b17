"""The plan of a scan, and the scan."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from wiper_cli.audit import answers, branches, requests, results
from wiper_cli.audit.canaries import Canary, canaries, power
from wiper_cli.audit.detection import Detection, known, pending
from wiper_cli.audit.explanation import explain
from wiper_cli.audit.judgement import judge
from wiper_cli.audit.keeping import keep, restore
from wiper_cli.audit.planning import planned
from wiper_cli.audit.stories.shared import images_of, plan_of, scan_of, unless_doubtful
from wiper_cli.audit.subject import SILENT, Notes, Reporter, one_pass, ready
from wiper_cli.verdict import Verdict


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
    ahead = plan_of(request, subject)
    done = restore(request.done, ahead.detectors) if ahead else {}
    triggered = None if request.explain is None else images_of(request.explain, request, subject)

    def answer(
        found: Detection,
        explanation: Any = None,
        complete: bool = True,
        planted: Sequence[Canary] | None = None,
    ) -> answers.ScanAnswer:
        verdict, sentence = unless_doubtful(subject, *graph.weigh(found.judged))
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
    found = scan_of(request, subject, report, notes, ahead, heard, done)
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
