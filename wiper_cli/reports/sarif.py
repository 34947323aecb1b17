"""SARIF 2.1.0 for code scanning: one run for all models, findings at line 1 of the model file."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from wiper_cli import rules
from wiper_cli.reports import story
from wiper_cli.reports.json import dumps
from wiper_cli.reports.plain import Report, Style, label, plain, words
from wiper_cli.verdict import ATLAS, ATLAS_VERSION, CWE, Rule, Severity

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

#: Severity → (level, kind, security-severity as code scanning reads it).
_LEVELS: Mapping[str, tuple[str, str, str | None]] = {
    "critical": ("error", "fail", "9.5"),
    "high": ("error", "fail", "8.0"),
    "medium": ("warning", "fail", "5.5"),
    "low": ("note", "fail", "3.0"),
    "info": ("none", "informational", None),
}

#: More are refused by code scanning.
_MOST_RESULTS = 5000

#: More would say no more; they are in the JSON.
_MOST_FACTS = 100

#: Keys of a finding's place that name something inside the file → SARIF's kind of logical location.
_PLACES: Mapping[str, str] = {"tensor": "object", "node": "object", "member": "member", "class": "object"}


def render(reports: Sequence[Report], style: Style) -> str:
    found = [(index, finding) for index, report in enumerate(reports) for finding in report["findings"]]
    found = found[:_MOST_RESULTS]
    used = sorted({finding["rule"] for _, finding in found})
    taken: dict[str, int] = {}
    artifacts: list[dict[str, Any]] = []
    for artifact in map(_artifact, reports):
        if artifact not in artifacts:
            artifacts.append(artifact)
    run = {
        "tool": {"driver": _driver(reports, used, [finding for _, finding in found])},
        "taxonomies": _taxonomies(used),
        "invocations": [_invocation(report) for report in reports],
        "artifacts": artifacts,
        "results": [
            _result(reports[at], artifacts.index(_artifact(reports[at])), finding, used, taken)
            for at, finding in found
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdicts": [
                {
                    "model": uri(_path(report)),
                    "verdict": report["verdict"],
                    "sentence": plain(report["sentence"]),
                    **({"asides": story.asides(report)} if story.asides(report) else {}),
                }
                for report in reports
            ]
        },
    }
    return dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def uri(path: str) -> str:
    """A relative URI: below the working directory where the path is, else its last part."""
    here = PurePosixPath(Path.cwd().as_posix())
    given = PurePosixPath(path.replace("\\", "/"))
    if given.is_absolute() and given.is_relative_to(here):
        given = given.relative_to(here)
    if given.is_absolute() or ".." in given.parts:
        given = PurePosixPath(given.name)
    shown = plain(given, 400).encode("utf-8", "replace")
    return quote(shown, safe="/") if str(given) not in ("", ".") else "model"


def message(text: str) -> str:
    """A plain message: no embedded link, no placeholder, nothing invisible."""
    safe = plain(text, 1000).replace("](", "] (")
    return re.sub(r"\{(\d+)\}", r"{{\1}}", safe) or "no message"


def _driver(reports: Sequence[Report], used: list[str], found: list[Mapping[str, Any]]) -> dict[str, Any]:
    version = plain(reports[0]["tool"]["version"], 40) if reports else "0"
    worst = {name: max(Severity[f["severity"].upper()] for f in found if f["rule"] == name) for name in used}
    return {
        "name": "wiper",
        "version": version,
        "rules": [_rule(rules.known(name), worst[name].word) for name in used],
        "supportedTaxonomies": [
            {"name": taxonomy["name"], "index": at} for at, taxonomy in enumerate(_taxonomies(used))
        ],
    }


def _rule(rule: Rule, severity: str) -> dict[str, Any]:
    level, _, security = _LEVELS[severity]
    properties: dict[str, Any] = {"tags": ["security", "machine-learning"]}
    if security:
        properties["security-severity"] = security
    targets = [("CWE", f"CWE-{number}") for number in rule.cwe] + [("ATLAS", name) for name in rule.atlas]
    return {
        "id": rule.id,
        "name": "".join(part.capitalize() for part in re.findall("[A-Za-z0-9]+", rule.title)),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.means},
        "help": {"text": f"{rule.means}\n\n{rule.do}", "markdown": rule.help()},
        "defaultConfiguration": {"level": level},
        "relationships": [
            {"target": {"id": name, "toolComponent": {"name": taxonomy}}, "kinds": ["relevant"]}
            for taxonomy, name in targets
        ],
        "properties": properties,
    }


def _taxonomies(used: Sequence[str]) -> list[dict[str, Any]]:
    """Of CWE and ATLAS the entries that the run's rules refer to."""
    named = [rules.known(name) for name in used]
    weaknesses = sorted({number for rule in named for number in rule.cwe})
    techniques = sorted({name for rule in named for name in rule.atlas})
    tables: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
        ({"name": "CWE"}, [(f"CWE-{number}", CWE[number]) for number in weaknesses]),
        ({"name": "ATLAS", "version": ATLAS_VERSION}, [(name, ATLAS[name]) for name in techniques]),
    ]
    return [
        {
            **head,
            "organization": "MITRE",
            "isComprehensive": False,
            "taxa": [{"id": name, "shortDescription": {"text": title}} for name, title in entries],
        }
        for head, entries in tables
    ]


def _invocation(report: Report) -> dict[str, Any]:
    """Not successful when there is no verdict; whatever was not done is a notification."""
    complete = report["verdict"] != "incomplete" and report["exit_code"] in (0, 1)
    return {
        "executionSuccessful": complete,
        "exitCode": report["exit_code"],
        "arguments": [plain(argument, 400) for argument in report["arguments"]],
        "endTimeUtc": report["created"].replace("+00:00", "Z"),
        "toolExecutionNotifications": [
            {"level": "warning", "message": {"text": message(f"Not done: {what}: {why}")}}
            for what, why in story.undone(report)[:_MOST_RESULTS]
        ],
    }


def _path(report: Report) -> str:
    return str((report.get("model") or {}).get("path") or "model")


def _artifact(report: Report) -> dict[str, Any]:
    model = report.get("model") or {}
    artifact: dict[str, Any] = {"location": {"uri": uri(_path(report))}, "roles": ["analysisTarget"]}
    if model.get("size") is not None:
        artifact["length"] = model["size"]
    if model.get("sha256"):
        artifact["hashes"] = {"sha-256": model["sha256"]}
    return artifact


def _result(
    report: Report, at: int, finding: Mapping[str, Any], used: list[str], taken: dict[str, int]
) -> dict[str, Any]:
    level, kind, _ = _LEVELS[finding["severity"]]
    place = finding.get("place") or {}
    region = {"startLine": 1}
    for key, name in (("offset", "byteOffset"), ("length", "byteLength")):
        if isinstance(place.get(key), int) and not isinstance(place[key], bool) and place[key] >= 0:
            region[name] = place[key]
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": uri(_path(report)), "index": at}, "region": region}
    }
    logical = [
        {
            "name": plain(place[key], 200),
            "fullyQualifiedName": f"{key}:{plain(place[key], 200)}",
            "kind": where,
        }
        for key, where in _PLACES.items()
        if place.get(key) not in (None, "")
    ]
    if logical:
        location["logicalLocations"] = logical
    suppressed = finding.get("suppressed")
    return {
        **({"suppressions": [_suppression(suppressed)]} if suppressed else {}),
        "ruleId": finding["rule"],
        "ruleIndex": used.index(finding["rule"]),
        "level": level,
        "kind": kind,
        "message": {"text": message(finding["message"])},
        "locations": [location],
        "partialFingerprints": {"wiperFinding/v1": _fingerprint(report, finding, taken)},
        "properties": {
            "severity": finding["severity"],
            "evidence": {
                label(key): story.false_alarms(report, value) if key == "false_alarm_rate" else words(value)
                for key, value in [*(finding.get("evidence") or {}).items()][:_MOST_FACTS]
            },
        },
    }


def _suppression(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a file that the user named says of a finding."""
    return {
        "kind": "external",
        "status": "accepted",
        "justification": message(said["reason"]),
        "properties": {"owner": plain(said["owner"], 80), "expires": plain(said["expires"], 10)},
    }


def _fingerprint(report: Report, finding: Mapping[str, Any], taken: dict[str, int]) -> str:
    """Of rule, digest of the file and place; the second of two that agree in all three gets a number."""
    digest = (report.get("model") or {}).get("sha256") or uri(_path(report))
    place = {key: value for key, value in (finding.get("place") or {}).items() if key in _PLACES}
    named = json.dumps([finding["rule"], digest, place], sort_keys=True)
    again = taken[named] = taken.get(named, -1) + 1
    return hashlib.sha256((named if not again else f"{named}#{again}").encode()).hexdigest()
