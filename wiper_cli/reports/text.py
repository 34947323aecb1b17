"""The report on a terminal: rich, as wide as asked, coloured only when asked."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wiper_cli.reports import story
from wiper_cli.reports.following import following
from wiper_cli.reports.plain import Report, Style, percent, plain
from wiper_cli.rules import known

_COLOURS = {
    "no_finding": "green", "suspicious": "yellow", "malicious": "red", "incomplete": "magenta",
    "purified": "green", "rejected": "yellow", "measured": "green", "inspected": "green",
}  # fmt: skip
_SEVERITY = {"critical": "red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}
_COMMENT = "# "
_STATE = {"fired": ("▲", "yellow"), "silent": ("○", "green"), "not run": ("◇", "magenta")}


def render(reports: Sequence[Report], style: Style) -> str:
    console = Console(
        file=io.StringIO(),
        width=style.width - len(_COMMENT) * style.comment,
        force_terminal=style.colour,
        color_system="standard" if style.colour else None,
        no_color=not style.colour,
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )
    for position, report in enumerate(reports):
        if position:
            console.print()
            console.rule(style="dim")
        _report(console, report)
    if len(reports) > 1:
        console.rule(style="dim")
        _overview(console, reports)
    assert isinstance(console.file, io.StringIO)
    begin = _COMMENT if style.comment else ""
    return "\n".join((begin + line).rstrip() for line in console.file.getvalue().splitlines())


def _report(console: Console, report: Report) -> None:
    outcome = story.outcome(report)
    word, sign = story.OUTCOMES[outcome]
    path = plain((report.get("model") or {}).get("path", ""), 200)
    console.print(
        Text.assemble((f"{sign} {word.upper()}", f"bold {_COLOURS[outcome]}"), "  ", (path, "bold"))
    )
    for said in (story.sentence(report), *story.asides(report)):
        console.print(Padding(Text(said), (0, 0, 0, 2)))
    if not story.read(report):
        return
    _numbers(console, report)
    _rows(console, "Changes", story.change_rows(report))
    _findings(console, report)
    _detectors(console, report)
    _explained(console, "Canaries", story.canary_rows(report), story.CANARIES)
    _explained(console, "Triggered images", story.explanation_rows(report), story.EXPLAINED)
    _rows(console, "Purification", story.purification_rows(report))
    _undone(console, report)
    _rows(console, "Model", story.model_rows(report))
    _rows(console, "Clean set", story.clean_rows(report))
    _rows(console, "Reproduce", story.reproduce(report))
    console.print()
    console.print(Text(story.LIMIT, style="dim"))
    said, command = following(report)
    if said:
        _heading(console, "Next")
        console.print(Padding(Text(said), (0, 0, 0, 2)))
    if command:
        # Not in a Padding, which would cut it at the width: it is to be pasted.
        console.print(Text(f"  {command}", style="bold"), soft_wrap=True)


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(style="dim", max_width=30, overflow="fold")
    grid.add_column(overflow="fold")
    return grid


def _rows(console: Console, title: str, rows: Sequence[story.Row]) -> None:
    if not rows:
        return
    _heading(console, title)
    grid = _grid()
    for name, value in rows[: story.ROWS]:
        grid.add_row(Text(name), Text(value))
    console.print(Padding(grid, (0, 0, 0, 2)))


def _numbers(console: Console, report: Report) -> None:
    measures = story.measures(report)
    if not measures:
        return
    console.print()
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for measure in measures:
        values = [rate for rate in (measure.before, measure.after) if rate]
        change = Text(" → ".join(percent(rate.value) for rate in values), style="bold")
        details = [rate.interval for rate in values if rate.interval]
        count = [f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{values[-1].n:,}"] if values[-1].n else []
        base = [f"base rate {percent(measure.base.value)}"] if measure.base else []
        detail = ", ".join([" → ".join(details)] * bool(details) + count + base)
        table.add_row(Text(measure.name), change, Text(detail))
    console.print(Padding(table, (0, 0, 0, 2)))
    for note in filter(None, dict.fromkeys([*(measure.note for measure in measures), story.asked(report)])):
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))


def _findings(console: Console, report: Report) -> None:
    found = story.findings(report)
    where = story.findings_title(report)
    _heading(console, f"{where} ({len(found)})" if found else f"{where}: none")
    for finding in found[: story.ROWS]:
        severity = finding["severity"]
        head = (f"{story.SEVERITIES[severity]} {severity}", _SEVERITY[severity])
        console.print(
            Padding(Text.assemble(head, f"  {finding['rule']}  ", known(finding["rule"]).title), (0, 0, 0, 2))
        )
        console.print(Padding(Text(plain(finding["message"], 400)), (0, 0, 0, 4)))
        grid = _grid()
        for name, value in story.evidence(report, finding):
            grid.add_row(Text(name), Text(value))
        if grid.row_count:
            console.print(Padding(grid, (0, 0, 0, 4)))
    if (more := len(found) - story.ROWS) > 0:
        console.print(Padding(Text(f"{more} more are in the JSON."), (0, 0, 0, 2)))


def _detectors(console: Console, report: Report) -> None:
    detectors = story.all_detectors(report)
    if not detectors:
        return
    detection = report.get("detection") or {}
    known = detection.get("calibrated") or detection.get("false_alarms")
    _heading(console, "Detectors" if known else "Detectors (thresholds are not calibrated)")
    for detector in detectors[: story.ROWS]:
        state = story.detector_state(detector)
        sign, colour = _STATE[state]
        head = Text.assemble((f"{sign} {state}", colour), "  ", story.title(detector))
        console.print(Padding(head, (0, 0, 0, 2)))
        rows = dict(story.detector_rows(report, detector)[:4])
        if state == "not run":
            line = rows["reason"]
        else:
            line = f"measured {rows['measured']}, threshold {rows['threshold']}"
            line += f" ({rows['threshold from']})" if "threshold from" in rows else ""
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))


def _explained(console: Console, title: str, rows: Sequence[story.Row], what: str) -> None:
    _rows(console, title, rows)
    if rows:
        console.print(Padding(Text(what, style="dim"), (0, 0, 0, 2)))


def _undone(console: Console, report: Report) -> None:
    rows = story.undone(report)
    if not rows:
        return
    _heading(console, "Not done")
    for what, why in rows[: story.ROWS]:
        console.print(Padding(Text.assemble(("◇ ", "magenta"), what), (0, 0, 0, 2)))
        console.print(Padding(Text(why, style="dim"), (0, 0, 0, 4)))


def _overview(console: Console, reports: Sequence[Report]) -> None:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for report in reports:
        outcome = story.outcome(report)
        word, sign = story.OUTCOMES[outcome]
        path = plain((report.get("model") or {}).get("path", ""), 200)
        table.add_row(Text(f"{sign} {word}", style=_COLOURS[outcome]), Text(path))
    console.print(table)
