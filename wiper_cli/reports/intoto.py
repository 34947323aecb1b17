"""An in-toto statement of what was found in which bytes, to be signed by whoever runs wiper; a line a model.

Statement v1 with the predicate of tests, test-result v0.1 (https://github.com/in-toto/attestation, spec/predicates);
what that has no word for stands below ``wiper``. The statement on a file that was not read has no digest: of nothing.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from wiper_cli.reports import story
from wiper_cli.reports.json import dumps
from wiper_cli.reports.plain import Report, Style, plain

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def render(reports: Sequence[Report], style: Style) -> str:
    indent = 2 if len(reports) == 1 else None
    return "\n".join(dumps(_statement(report), indent) for report in reports)


def _statement(report: Report) -> dict[str, Any]:
    model = report.get("model") or {}
    output = (report.get("purification") or {}).get("output") or {}
    subject = output if output.get("sha256") else model
    digest = subject.get("sha256")
    states = [(story.detector_state(one), plain(one["name"], 100)) for one in story.all_detectors(report)]
    return {
        "_type": _STATEMENT,
        "subject": [
            {"name": plain(subject.get("path", "model"), 400), "digest": {"sha256": digest} if digest else {}}
        ],
        "predicateType": _PREDICATE,
        "predicate": {
            "result": result(report),
            "configuration": [_configuration(report)],
            "passedTests": [name for state, name in states if state == "silent"],
            "warnedTests": [name for state, name in states if state == "not run"],
            "failedTests": [name for state, name in states if state == "fired"],
            "wiper": _more(report, model),
        },
    }


def result(report: Report) -> str:
    """``PASSED`` where the command succeeded and something was looked for, ``WARNED`` where findings were spared or
    nothing was looked for, else ``FAILED``, also without a verdict."""
    if report["exit_code"] != 0:
        return "FAILED"
    accepted = (report.get("purification") or {}).get("accepted") is True
    searched = report["command"] != "inspect" and report["verdict"] == "no_finding"
    return "PASSED" if accepted or searched else "WARNED"


def _configuration(report: Report) -> dict[str, Any]:
    plan = (report.get("detection") or {}).get("plan") or {}
    settings = {
        "command": report["command"],
        "arguments": [plain(one, 400) for one in report.get("arguments") or ()],
        "seed": report.get("seed"),
        "effort": plan.get("effort"),
    }
    content = base64.b64encode(json.dumps(settings, sort_keys=True).encode()).decode()
    return {"name": "settings", "mediaType": "application/json", "content": content}


def _more(report: Report, model: Mapping[str, Any]) -> dict[str, Any]:
    found, clean = story.findings(report), report.get("clean") or {}
    left = len(found) - story.ROWS
    return {
        "version": plain(report["tool"]["version"], 40),
        "created": plain(report["created"], 40),
        "verdict": report["verdict"],
        "sentence": plain(report["sentence"], 600),
        "exitCode": report["exit_code"],
        "model": {
            "path": plain(model.get("path", "model"), 400),
            **{key: model[key] for key in ("kind", "size", "sha256", "digest") if model.get(key) is not None},
        },
        "clean": {key: clean[key] for key in ("images", "accuracy") if clean.get(key) is not None},
        "findings": [
            {
                "rule": plain(finding["rule"], 60),
                "severity": finding["severity"],
                "message": plain(finding["message"], 600),
                "evidence": {
                    plain(name, 100): plain(value, 600) for name, value in story.evidence(report, finding)
                },
                **({"suppressed": story.suppressed(finding)} if story.suppressed(finding) else {}),
            }
            for finding in found[: story.ROWS]
        ],
        **({"findingsLeftOut": f"{left} more are in the JSON"} if left > 0 else {}),
        "notDone": [
            f"{plain(what, 200)}: {plain(why, 400)}" for what, why in story.undone(report)[: story.ROWS]
        ],
        "limit": story.LIMIT,
    }
