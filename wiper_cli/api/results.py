"""What the functions of :mod:`wiper_cli.api` return: the report, with names for what most ask of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wiper_cli.reports import FORMATS, render
from wiper_cli.verdict import ExitCode, Finding, Severity, Verdict


@dataclass(frozen=True)
class Result:
    """One report. ``document``: all of it, as ``-f json`` writes it (docs/report-format.md)."""

    document: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.document["verdict"])

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return str(self.document["sentence"])

    @property
    def exit_code(self) -> ExitCode:
        """What the command would have exited with."""
        return ExitCode(self.document["exit_code"])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Gravest first."""
        found = [
            Finding(
                one["rule"], Severity[one["severity"].upper()], one["message"], one["evidence"], one["place"]
            )
            for one in self.document["findings"]
        ]
        return tuple(sorted(found, key=lambda finding: -finding.severity))

    @property
    def suspects(self) -> tuple[int, ...]:
        """Classes that a backdoor may lead to, most suspicious first; empty where nothing looked."""
        return tuple((self.document["detection"] or {}).get("suspects", ()))

    @property
    def accuracy(self) -> float | None:
        """Of the model as it was given, on the labelled clean images, 0..1."""
        found: float | None = (self.document["clean"] or {}).get("accuracy")
        return found

    def render(self, form: str) -> str:
        """The report in one of :data:`wiper_cli.reports.FORMATS`; raises ``KeyError`` for another."""
        FORMATS[form]
        return render(form, [self.document])

    def _repr_html_(self) -> str:
        """The HTML report in a frame of its own, which runs no script: names in it come from the file."""
        page = html.escape(self.render("html"), quote=True)
        return f'<iframe sandbox srcdoc="{page}" style="width:100%;height:640px;border:0"></iframe>'

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.document['model']['path']}: {self.sentence}>"


@dataclass(frozen=True, repr=False)
class InspectResult(Result):
    """What the file is: ``document["model"]``."""


@dataclass(frozen=True, repr=False)
class ScanResult(Result):
    """Whether it behaves as if it had a backdoor."""


@dataclass(frozen=True, repr=False)
class VerifyResult(Result):
    """What triggers do to it: ``document["verification"]``."""


@dataclass(frozen=True, repr=False)
class PurifyResult(Result):
    """What came of a purification. ``output``: the file that was written, ``None`` where it was not accepted."""

    @property
    def accepted(self) -> bool:
        return self.output is not None

    @property
    def output(self) -> Path | None:
        written = (self.document["purification"] or {}).get("output")
        return Path(written["path"]) if written else None
