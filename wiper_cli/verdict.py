"""The words of a result: rules, findings, severities, verdicts, exit codes. Standard library only.

A finished run is one JSON-able mapping (``docs/report-format.md``, ``wiper_cli/reports/schema.json``); every
report format is rendered from it, so that an old result can be rendered again without torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

#: Version of the result mapping; the schema carries the same string.
SCHEMA = "wiper-report/1"


#: A kind of model file with its article, for the beginning of a sentence.
KIND_NAMES: Mapping[str, str] = {
    "safetensors": "A safetensors",
    "torchscript": "A TorchScript",
    "onnx": "An ONNX",
}


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    FINDING = 1
    USAGE = 2
    NO_VERDICT = 3


#: Over several files the first of these that occurred is the exit code of the run.
EXIT_PRECEDENCE = (ExitCode.FINDING, ExitCode.USAGE, ExitCode.NO_VERDICT, ExitCode.OK)


class Severity(IntEnum):
    """Ordered; ``--fail-on`` names the lowest one that fails a run."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        return self.name.lower()


class Verdict(StrEnum):
    """What the evidence supports. There is no word for "clean": nothing here could show that."""

    NO_FINDING = "no_finding"
    SUSPICIOUS = "suspicious"
    MALICIOUS = "malicious"
    INCOMPLETE = "incomplete"


#: Ids move between releases, so the one they were read from is part of every report.
ATLAS_VERSION = "5.6.0"

#: MITRE ATLAS techniques that a rule can name.
ATLAS: Mapping[str, str] = {
    "AML.T0010.003": "AI Supply Chain Compromise: Model",
    "AML.T0011.000": "User Execution: Unsafe AI Artifacts",
    "AML.T0018.000": "Manipulate AI Model: Poison AI Model",
    "AML.T0018.001": "Manipulate AI Model: Modify AI Model Architecture",
    "AML.T0018.002": "Manipulate AI Model: Embed Malware",
    "AML.T0020": "Poison Training Data",
    "AML.T0029": "Denial of AI Service",
    "AML.T0043.004": "Craft Adversarial Data: Insert Backdoor Trigger",
}

#: Weakness classes that a rule can name.
CWE: Mapping[int, str] = {
    22: "Improper Limitation of a Pathname to a Restricted Directory ('Path Traversal')",
    59: "Improper Link Resolution Before File Access ('Link Following')",
    125: "Out-of-bounds Read",
    400: "Uncontrolled Resource Consumption",
    436: "Interpretation Conflict",
    502: "Deserialization of Untrusted Data",
    506: "Embedded Malicious Code",
    912: "Hidden Functionality",
}


#: Of a backdoor that training planted, and of one that is built into the graph.
PLANTED = ("AML.T0018.000", "AML.T0020", "AML.T0043.004")
BUILT_IN = ("AML.T0018.001", "AML.T0043.004")


@dataclass(frozen=True)
class Rule:
    """What a finding means and what to do about it. ``severity``: the usual one; a finding has its own.
    ``cwe``, ``atlas``: keys of the tables above."""

    id: str
    title: str
    means: str
    do: str
    severity: Severity
    cwe: tuple[int, ...] = ()
    atlas: tuple[str, ...] = ()

    def help(self) -> str:
        """Markdown: what it means, what to do, where it belongs."""
        lines = [f"**What it means.** {self.means}", "", f"**What to do.** {self.do}"]
        if self.cwe or self.atlas:
            lines += ["", f"**See.** {'; '.join(self.references())}."]
        return "\n".join(lines)

    def references(self) -> list[str]:
        """``CWE-912 Hidden Functionality``, ``ATLAS AML.T0020 Poison Training Data``, …"""
        weaknesses = [f"CWE-{number} {CWE[number]}" for number in self.cwe]
        return weaknesses + [f"ATLAS {technique} {ATLAS[technique]}" for technique in self.atlas]


@dataclass(frozen=True)
class Finding:
    """One statement with its evidence.

    ``rule``: stable id (``WIPER-B01``), described in ``wiper_cli/rules.py``. ``evidence``: numbers with their
    names (statistic, threshold, target, …). ``place``: what it concerns (``tensor``, ``member``, ``class``).
    ``path``: steps through the graph of the model, ``pictures``: of an image, both where there are any.
    """

    rule: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[Mapping[str, str], ...] = ()
    pictures: Mapping[str, str | None] | None = None

    def as_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "severity": self.severity.word, "path": list(self.path)}
        return {key: value for key, value in found.items() if value or key not in ("path", "pictures")}


class Problem(Exception):
    """Ends a run with one sentence and an exit code instead of a result; never with a traceback.

    ``findings``: what was found until then; one at or above ``--fail-on`` makes the exit code 1. ``verdict``: on these.
    """

    def __init__(
        self,
        message: str,
        exit_code: ExitCode = ExitCode.USAGE,
        findings: Sequence[Finding] = (),
        verdict: Verdict = Verdict.INCOMPLETE,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.findings = tuple(findings)
        self.verdict = verdict


def combine(codes: Iterable[int]) -> ExitCode:
    """Exit code of a run over several files, by :data:`EXIT_PRECEDENCE`."""
    seen = {ExitCode(code) for code in codes}
    return next((code for code in EXIT_PRECEDENCE if code in seen), ExitCode.OK)
