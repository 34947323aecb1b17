"""A CycloneDX 1.6 bill of materials: each model as a machine-learning model with its card, findings as vulnerabilities.

Source: https://cyclonedx.org/docs/1.6/json/. Made by hand: few fields are used; a test holds them against the schema.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wiper_cli import rules
from wiper_cli.reports import story
from wiper_cli.reports.json import dumps
from wiper_cli.reports.plain import Report, Style, plain

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", re.ASCII)


def render(reports: Sequence[Report], style: Style) -> str:
    components = [one for number, report in enumerate(reports) for one in _components(number, report)]
    found = [one for number, report in enumerate(reports) for one in _vulnerabilities(number, report)]
    dates = [report["created"] for report in reports if _DATE.fullmatch(report["created"])]
    body = {
        "metadata": {
            **({"timestamp": max(dates)} if dates else {}),
            "tools": {"components": [_tool(reports)]},
        },
        "components": components,
        "vulnerabilities": found,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return dumps(
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
        | body
    )


def _tool(reports: Sequence[Report]) -> dict[str, Any]:
    version = plain(reports[0]["tool"]["version"], 40) if reports else "0"
    return {"type": "application", "name": "wiper", "version": version}


def _components(number: int, report: Report) -> Iterator[dict[str, Any]]:
    model = report.get("model") or {}
    yield {
        "type": "machine-learning-model",
        "bom-ref": f"model-{number}",
        "name": plain(model.get("path", "model"), 400) or "model",
        **_hashes(model.get("sha256")),
        "modelCard": _card(report, model),
        "properties": [
            {"name": f"wiper:{name}", "value": plain(value, 600)} for name, value in _facts(report)
        ],
    }
    output = (report.get("purification") or {}).get("output") or {}
    if output.get("sha256"):
        original = {"type": "machine-learning-model", "name": plain(model.get("path", "model"), 400)}
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"purified-{number}",
            "name": plain(output.get("path", "model"), 400) or "model",
            **_hashes(output["sha256"]),
            "pedigree": {
                "ancestors": [{**original, **_hashes(model.get("sha256"))}],
                "notes": "wiper purify changed values of its tensors and nothing else.",
            },
        }


def _hashes(digest: str | None) -> dict[str, Any]:
    return {"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}


def _card(report: Report, model: Mapping[str, Any]) -> dict[str, Any]:
    name = (model.get("architecture") or {}).get("name")
    metrics = []
    for measure in story.measures(report):
        for part, rate in (("original", measure.before), ("purified", measure.after)):
            if rate is not None:
                bounds = {
                    key: f"{value:.4f}"
                    for key, value in (("lowerBound", rate.low), ("upperBound", rate.high))
                    if value is not None
                }
                about = f"{part}; {measure.note}" if measure.note else part
                metrics.append(
                    {
                        "type": plain(measure.name, 100),
                        "value": f"{rate.value:.4f}",
                        "slice": plain(about, 400),
                        **({"confidenceInterval": bounds} if bounds else {}),
                    }
                )
    return {
        "modelParameters": {
            "task": "image-classification",
            **({"modelArchitecture": plain(name, 200)} if name else {}),
            "inputs": [{"format": "image"}],
            "outputs": [{"format": "class"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": [story.LIMIT]},
    }


def _facts(report: Report) -> Iterator[tuple[str, object]]:
    model, clean = report.get("model") or {}, report.get("clean") or {}
    plan = (report.get("detection") or {}).get("plan") or {}
    yield "verdict", report["verdict"]
    yield "sentence", report["sentence"] or "none"
    yield "exit-code", report["exit_code"]
    yield "created", report["created"]
    facts = (
        ("command", report.get("command")), ("kind", model.get("kind")), ("digest", model.get("digest")),
        ("clean-images", clean.get("images")), ("effort", plan.get("effort")), ("seed", report.get("seed")),
    )  # fmt: skip
    yield from ((name, value) for name, value in facts if value is not None)
    for aside in story.asides(report):
        yield "aside", aside
    for what, why in story.undone(report)[: story.ROWS]:
        yield "not-done", f"{what}: {why}"
    if (left := len(report["findings"]) - story.ROWS) > 0:
        yield "findings", f"{left} more are in the JSON"


def _vulnerabilities(number: int, report: Report) -> Iterator[dict[str, Any]]:
    for place, finding in enumerate(story.findings(report)[: story.ROWS]):
        rule = rules.known(finding["rule"])
        said = story.suppressed(finding)
        yield {
            "bom-ref": f"finding-{number}-{place}",
            "id": plain(finding["rule"], 60),
            "source": {"name": "wiper"},
            "ratings": [{"source": {"name": "wiper"}, "severity": finding["severity"], "method": "other"}],
            **({"cwes": list(rule.cwe)} if rule.cwe else {}),
            "description": plain(finding["message"], 1000) or "no message",
            "detail": plain(rule.means, 1000),
            "recommendation": plain(rule.do, 1000),
            **({"analysis": {"detail": plain(f"Accepted {said}", 600)}} if said else {}),
            "affects": [{"ref": f"model-{number}"}],
            "properties": [
                {"name": f"wiper:{plain(name, 100)}", "value": plain(value, 600)}
                for name, value in story.evidence(report, finding)
            ],
        }
