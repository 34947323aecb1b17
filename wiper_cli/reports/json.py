"""The result itself as JSON. ASCII only: no byte of a hostile name reaches a terminal unescaped."""

import json
from collections.abc import Sequence

from wiper_cli.reports.plain import Report, Style
from wiper_cli.verdict import combine

LIST_SCHEMA = "wiper-reports/1"


def as_document(reports: Sequence[Report]) -> Report:
    """The JSON document: the report itself, or a list document when there are several (or none)."""
    if len(reports) == 1:
        return reports[0]
    code = int(combine(int(report["exit_code"]) for report in reports))
    return {"schema": LIST_SCHEMA, "reports": list(reports), "exit_code": code}


def dumps(value: object, indent: int | None = 2) -> str:
    """ASCII, and no two number signs in a row, with which some CI runners' commands begin wherever they stand."""
    return json.dumps(value, indent=indent, allow_nan=False).replace("##", "#\\u0023")


def render(reports: Sequence[Report], style: Style) -> str:
    return dumps(as_document(reports))
