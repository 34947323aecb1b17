"""The report as a comment on a pull request: ten lines, the rest folded away."""

import re
from collections.abc import Sequence

from wiper_cli.reports import story
from wiper_cli.reports.following import following
from wiper_cli.reports.plain import Report, Style, percent, plain
from wiper_cli.rules import known

#: What Markdown or HTML could act on, written as entities; some only at the start or in an address.
_ACTIVE = re.compile(r"[\\`*_\[\]<>#|~&@$]|^[-+=:]|^\d(?=\d*[.)]\s)|:(?=//)|(?<=www)\.", re.IGNORECASE)
#: Where an address, a pictogram, or the name of a person, issue or epic begins that forges look for in the finished
#: page: an entity does not stop them, a character between that shows nothing does.
_SOUGHT = re.compile(r"(?:&#(?:35|36|38|46|58|64|126);|[!%^:]|\bGH-)(?=[\w/+-])", re.IGNORECASE)


def md(text: str) -> str:
    """``text`` as words and nothing else: no markup, no link, nobody mentioned."""
    safe = _ACTIVE.sub(lambda match: f"&#{ord(match.group())};", plain(text, 600))
    return _SOUGHT.sub(r"\g<0>&#8203;", safe)


def render(reports: Sequence[Report], style: Style) -> str:
    return "\n\n---\n\n".join("\n".join(_report(report)) for report in reports)


def _report(report: Report) -> list[str]:
    word, sign = story.OUTCOMES[story.outcome(report)]
    path = (report.get("model") or {}).get("path", "")
    found = story.findings(report)
    lines = [f"### {sign} {word}: {md(path)}", "", md(story.sentence(report)), ""]
    if asides := story.asides(report):
        lines += [" ".join(map(md, asides)), ""]
    measures = story.measures(report)
    if measures:
        two = any(measure.after for measure in measures)
        lines += [
            "| | before | after |" if two else "| | measured |",
            "|---|--:|--:|" if two else "|---|--:|",
        ]
        for measure in measures:
            cells = [measure.before, measure.after] if two else [measure.before]
            shown = " | ".join(percent(rate.value) if rate else "not measured" for rate in cells)
            lines.append(f"| {measure.name} | {shown} |")
        lines.append("")
    worst = f", worst {story.SEVERITIES[found[0]['severity']]} {found[0]['severity']}" if found else ""
    lines += [f"Findings: {len(found)}{worst}. Exit code {report['exit_code']}.", ""]
    lines += _folded("Changes", _table(story.change_rows(report)))
    lines += _folded(story.findings_title(report), [*_findings(report), *_left_out(found)])
    lines += _folded("Detectors", _detectors(report))
    for title, rows, what in (
        ("Canaries", story.canary_rows(report), story.CANARIES),
        ("Triggered images", story.explanation_rows(report), story.EXPLAINED),
    ):
        lines += _folded(title, [*_table(rows), "", md(what)] if rows else [])
    lines += _folded("Purification", _table(story.purification_rows(report)))
    lines += _folded(
        "Not done", [f"- **{md(what)}**: {md(why)}" for what, why in story.undone(report)[: story.ROWS]]
    )
    lines += _folded("Model and clean set", _table(story.model_rows(report) + story.clean_rows(report)))
    lines += _folded("How to reproduce", _table(story.reproduce(report)))
    said, command = following(report)
    return [
        *lines,
        story.LIMIT,
        *(["", f"Next: {md(said)}"] if said else []),
        *(["", md(command)] if command else []),
    ]


def _left_out(found: Sequence[object]) -> list[str]:
    return [f"- {more} more are in the JSON."] if (more := len(found) - story.ROWS) > 0 else []


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>"]


def _table(rows: Sequence[story.Row]) -> list[str]:
    if not rows:
        return []
    return ["| | |", "|---|---|", *(f"| {md(name)} | {md(value)} |" for name, value in rows[: story.ROWS])]


def _findings(report: Report) -> list[str]:
    lines = []
    for finding in story.findings(report)[: story.ROWS]:
        severity = finding["severity"]
        title = known(finding["rule"]).title
        head = f"- {story.SEVERITIES[severity]} **{severity}** {md(finding['rule'])}"
        lines.append(f"{head}, {title}: {md(finding['message'])}")
        lines += [f"  - {md(name)}: {md(value)}" for name, value in story.evidence(report, finding)]
    return lines


def _detectors(report: Report) -> list[str]:
    lines = []
    for detector in story.all_detectors(report)[: story.ROWS]:
        rows = "; ".join(f"{name} {value}" for name, value in story.detector_rows(report, detector)[:4])
        lines.append(f"- **{md(story.title(detector))}**, {story.detector_state(detector)}: {md(rows)}")
    return lines
