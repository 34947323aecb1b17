"""The result itself as JSON. ASCII only: no byte of a hostile name reaches a terminal unescaped."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wiper_cli.reports import as_document
from wiper_cli.reports.plain import Report, Style


def render(reports: Sequence[Report], style: Style) -> str:
    return json.dumps(as_document(reports), indent=2, allow_nan=False)
