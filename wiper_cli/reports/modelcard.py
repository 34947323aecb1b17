"""A fragment for the model card of a hub: what was measured as ``model-index``, the front matter of its README, and a
section on what the scan found. Source: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterator, Sequence

from wiper_cli.reports import story
from wiper_cli.reports.markdown import md
from wiper_cli.reports.plain import Report, Style, plain

#: What a measure is, as the hub calls it, where it has a word.
_TYPES = {"Clean accuracy": "accuracy"}


def render(reports: Sequence[Report], style: Style) -> str:
    index = [line for report in reports for line in _entry(report)]
    head = ["---", "model-index:" if index else "model-index: []", *index, "---"]
    return "\n".join([*head, *(line for report in reports for line in _section(report))])


def _entry(report: Report) -> Iterator[str]:
    model, clean = report.get("model") or {}, report.get("clean") or {}
    path = plain(model.get("path", "model"), 400).replace("\\", "/")
    metrics = [
        (measure, part, rate)
        for measure in story.measures(report)
        for part, rate in (("original", measure.before), ("purified", measure.after))
        if rate is not None
    ]
    if not metrics:  # the hub takes no result without one
        return
    folder = plain(clean.get("path") or "clean images", 400).rstrip("/").replace("\\", "/")
    yield f"- name: {_text(path.rpartition('/')[2] or path)}"
    yield "  results:"
    yield "  - task:"
    yield "      type: image-classification"
    yield "    dataset:"
    yield f"      name: {_text(folder.rpartition('/')[2] or 'clean images')}"
    yield "      type: imagefolder"
    yield "    metrics:"
    for measure, part, rate in metrics:
        name = f"{measure.name}, {part}" + (f": {measure.note}" if measure.note else "")
        word = measure.name.lower().replace(" ", "-").replace("'", "")
        yield f"    - type: {_TYPES.get(measure.name, word)}"
        yield f"      value: {rate.value:.4f}"
        yield f"      name: {_text(name)}"


def _section(report: Report) -> Iterator[str]:
    model = report.get("model") or {}
    word, sign = story.OUTCOMES[story.outcome(report)]
    found = story.findings(report)
    yield from ("", f"## Examined for backdoors: {md(model.get('path', 'model'))}", "")
    yield f"{sign} **{word}.** {md(story.sentence(report))}"
    if digest := model.get("sha256"):
        yield from ("", f"The verdict holds for the file with SHA-256 {digest} and for no other.")
    if found:
        yield ""
        for finding in found[: story.ROWS]:
            accepted = f" (accepted {md(story.suppressed(finding))})" if story.suppressed(finding) else ""
            yield f"- {finding['severity']} {md(finding['rule'])}: {md(finding['message'])}{accepted}"
            yield from (f"  - {md(name)}: {md(value)}" for name, value in story.evidence(report, finding))
        if len(found) > story.ROWS:
            yield f"- {len(found) - story.ROWS} more are in the JSON"
    made = f"wiper {md(report['tool']['version'])}, {md(report['created'])}"
    yield from ("", f"{story.LIMIT} Made by {made}.")


def _text(value: str) -> str:
    """A YAML string: JSON's, whose escapes YAML reads, of what :func:`plain` left."""
    return json.dumps(plain(value, 400), ensure_ascii=False)
