"""What a report says that an earlier one of the same model did not, and the other way round."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wiper_cli.reports.plain import Report, percent


def changes(report: Report, earlier: Sequence[Report], file: str, alone: bool = True) -> dict[str, Any]:
    """The report's ``changes`` since the first of ``earlier``, as read from ``file``, that is of the same path, else of
    the same bytes, else, where this one is ``alone``, the only one; without one, ``since`` is ``None`` and nothing is
    compared."""
    old = _counterpart(report, earlier, alone)
    if old is None:
        return {
            "file": file,
            "since": None,
            "verdict": None,
            "new": [],
            "gone": [],
            "detectors": [],
            "facts": [],
        }
    before, after = (Counter(map(_identity, one["findings"])) for one in (old, report))
    return {
        "file": file,
        "since": old["created"],
        "verdict": {"before": old["verdict"], "after": report["verdict"]},
        "new": _unmatched(report["findings"], before),
        "gone": _unmatched(old["findings"], after),
        "detectors": _detectors(old, report),
        "facts": [
            {"what": what, "before": was, "after": now}
            for (what, was), (_, now) in zip(_facts(old), _facts(report), strict=True)
            if was != now
        ],
    }


def _counterpart(report: Report, earlier: Sequence[Report], alone: bool) -> Report | None:
    for key in ("path", "sha256"):
        wanted = (report["model"] or {}).get(key)
        for one in earlier if wanted else ():
            if (one.get("model") or {}).get(key) == wanted:
                return one
    return earlier[0] if alone and len(earlier) == 1 else None


def _identity(finding: Mapping[str, Any]) -> str:
    return json.dumps([finding["rule"], finding.get("place") or {}], sort_keys=True)


def _unmatched(findings: Sequence[Mapping[str, Any]], known: Counter[str]) -> list[dict[str, Any]]:
    """Those of ``findings`` of whose rule and place there are more than ``known``."""
    left, found = Counter(known), []
    for finding in findings:
        left[_identity(finding)] -= 1
        if left[_identity(finding)] < 0:
            found.append({key: finding[key] for key in ("rule", "severity", "message")})
    return found


def _detectors(old: Report, new: Report) -> list[dict[str, Any]]:
    """Every detector of either, whose statistics may also be the same."""
    both = [
        {one["name"]: one for one in (report.get("detection") or {}).get("detectors") or ()}
        for report in (old, new)
    ]
    return [
        {
            "name": name,
            "before": _measured(both[0].get(name)),
            "after": _measured(both[1].get(name)),
            "fired": {
                "before": bool(both[0].get(name, {}).get("fired")),
                "after": bool(both[1].get(name, {}).get("fired")),
            },
        }
        for name in dict.fromkeys([*both[1], *both[0]])
    ]


def _measured(detector: Mapping[str, Any] | None) -> float | None:
    return detector.get("statistic") if detector and detector["ran"] else None


def _facts(report: Report) -> list[tuple[str, str]]:
    """What else makes two reports differ."""
    model, clean = report.get("model") or {}, report.get("clean") or {}
    plan = (report.get("detection") or {}).get("plan") or {}
    return [
        ("model", str(model.get("digest") or model.get("sha256") or "not read")),
        ("clean images", str(clean.get("images", "none"))),
        ("accuracy", percent(clean.get("accuracy"))),
        ("effort", str(plan.get("effort", "none"))),
        ("seed", str(report.get("seed"))),
        ("wiper", str(report["tool"]["version"])),
    ]
