"""The result mapping of one run over one model: begun, refused, concluded. No torch.

Its keys are those of ``wiper_cli/reports/schema.json``; the child fills the middle, the parent both ends.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from formats import FormatError, Hostile, Source, Unreadable
from wiper_cli import __version__
from wiper_cli.audit.answers import Answer, ExaminationAnswer
from wiper_cli.verdict import SCHEMA, ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker.confinement import Isolation
from wiper_cli.worker.gate import GateAnswer

Document = dict[str, Any]


def begin(command: str, arguments: Sequence[str], path: object, seed: int) -> Document:
    """A document that knows what was asked and nothing yet."""
    return {
        "schema": SCHEMA,
        "tool": {"name": "wiper", "version": __version__},
        "command": command,
        "arguments": list(arguments),
        "verdict": Verdict.INCOMPLETE.value,
        "sentence": "",
        "exit_code": int(ExitCode.NO_VERDICT),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "model": {"path": str(path), "kind": None, "sha256": None, "size": None, "opened": "not opened"},
        "clean": None,
        "preprocessing": None,
        "findings": [],
        "salience": None,
        "detection": None,
        "explanation": None,
        "verification": None,
        "purification": None,
        "isolation": Isolation().as_dict(),
        "not_done": [],
        "suppression": None,
        "changes": None,
        "cached": None,
        "environment": {},
        "timing": {},
    }


def describe(document: Document, source: Source, gated: GateAnswer) -> None:
    """What the gate learned from the bytes."""
    document["model"].update(
        kind=gated.kind,
        sha256=source.sha256,
        digest=source.digest,
        size=source.size,
        opened="static",
        notes=list(gated.notes),
        parameters=gated.parameters,
    )


def merge(document: Document, answer: Answer) -> None:
    """Takes what the child found into the document; the gate's facts about the file stay.

    Raises :class:`Problem`, and takes nothing, where a section is not what the schema says: the child is not trusted.
    """
    from wiper_cli.reports.schema import problem

    merged = document | {f.name: getattr(answer, f.name) for f in fields(answer) if f.name in document}
    merged["model"] = {**document["model"], **answer.model}
    merged["timing"] = {**document["timing"], **answer.timing}
    merged["not_done"] = [*document["not_done"], *answer.not_done]
    if isinstance(answer, ExaminationAnswer):
        merged |= _judged(answer.findings, answer.verdict)
    if wrong := problem(merged):
        raise Problem(f"The worker process gave an answer that cannot be used: {wrong}.", ExitCode.NO_VERDICT)
    document.update(merged)


def _judged(findings: Sequence[Finding], verdict: Verdict) -> Document:
    return {"findings": [finding.as_dict() for finding in findings], "verdict": verdict.value}


def refuse(
    document: Document,
    error: FormatError | Problem,
    fail_on: str = "high",
    suppress: Callable[[Document], None] = lambda _: None,
) -> None:
    """Ends the document with the sentence of a refusal, its findings, its exit code (1 where a finding fails that
    ``suppress`` leaves; of a file that was not loaded it may leave out none)."""
    from wiper_cli.reports.schema import problem

    document["sentence"] = str(error)
    document["verdict"] = Verdict.INCOMPLETE.value
    if document["purification"]:
        # Accepted by measurement, and yet not written: not purified.
        document["purification"].update(accepted=False, reason=str(error), output=None)
    if isinstance(error, Hostile):
        document["verdict"] = Verdict.MALICIOUS.value
        document["exit_code"] = int(ExitCode.FINDING)
        finding = Finding(error.rule, Severity.CRITICAL, str(error), place={"member": error.place})
        document["findings"] = [finding.as_dict()]
        document["not_done"].append({"what": "everything else", "why": "The file was not loaded."})
        return
    if isinstance(error, Problem):
        document["exit_code"] = int(error.exit_code)
        judged = _judged(error.findings, error.verdict)
        if error.findings and not problem(document | judged):  # the child may have sent them
            document.update(judged)
            suppress(document)
            if failing(document["findings"], fail_on):
                document["exit_code"] = int(ExitCode.FINDING)
    elif isinstance(error, Unreadable):
        document["exit_code"] = int(ExitCode.USAGE)
    else:
        document["exit_code"] = int(ExitCode.NO_VERDICT)
    document["not_done"].append({"what": "the examination", "why": str(error)})


def conclude(document: Document, fail_on: str, exit_zero: bool) -> None:
    """Sets the exit code from the findings and the verdict."""
    if failing(document["findings"], fail_on) or document["verdict"] == Verdict.MALICIOUS:
        code = ExitCode.FINDING
    elif document["verdict"] == Verdict.INCOMPLETE:
        code = ExitCode.NO_VERDICT
    else:
        code = ExitCode.OK
    document["exit_code"] = int(spare(code, exit_zero))


def failing(findings: Sequence[Mapping[str, Any]], fail_on: str) -> bool:
    """Whether any finding that nobody answers for is at or above the bar."""
    bar = Severity[fail_on.upper()]
    return any(
        Severity[str(finding["severity"]).upper()] >= bar
        for finding in findings
        if "suppressed" not in finding
    )


def spare(code: ExitCode, exit_zero: bool) -> ExitCode:
    """``--exit-zero`` spares 1 and nothing else."""
    return ExitCode.OK if exit_zero and code == ExitCode.FINDING else code
