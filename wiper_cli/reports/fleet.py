"""The page over many models, worst first: no script, no network, every string escaped; a row a model."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from wiper_cli.reports import plain, story, svg
from wiper_cli.reports.html import environment
from wiper_cli.reports.plain import Report, bounded, uncommanded

SCHEMA = "wiper-fleet/1"
#: Rows of the page; the JSON beside it has all.
ROWS = 3000
#: Worst first.
ORDER = ("malicious", "suspicious", "incomplete", "no_finding")
#: Of an index: name → type.
_INDEX: Mapping[str, Any] = {
    "began": str, "finished": (str, type(None)), "since": (str, type(None)), "models": list, "waiting": list,
    "gone": list, "before": list,
}  # fmt: skip
_ROW: Mapping[str, Any] = {
    "path": str, "folder": str, "verdict": str, "sentence": str, "exit_code": int, "created": str,
    "target": (str, type(None)), "accuracy": (float, int, type(None)), "effort": (str, type(None)),
    "seconds": (float, int), "digest": (str, type(None)), "taken": bool, "findings": int, "suppressed": int,
    "change": (str, type(None)),
}  # fmt: skip


def row(report: Report, folder: str, before: Mapping[str, Any] | None, since: str | None) -> dict[str, Any]:
    """What the index says of one model. ``before``: its row in the last run that was whole, at ``since``."""
    model, clean = report.get("model") or {}, report.get("clean") or {}
    found: dict[str, Any] = {
        "path": str(model.get("path", "")),
        "folder": folder,
        "verdict": report["verdict"],
        "sentence": report["sentence"],
        "exit_code": int(report["exit_code"]),
        "created": report["created"],
        "target": _target(report),
        "accuracy": clean.get("accuracy"),
        "effort": ((report.get("detection") or {}).get("plan") or {}).get("effort"),
        "seconds": float((report.get("timing") or {}).get("total") or 0.0),
        "digest": model.get("digest") or model.get("sha256"),
        "taken": bool((report.get("cached") or {}).get("whole")),
        "findings": len(report["findings"]),
        "suppressed": sum("suppressed" in finding for finding in report["findings"]),
        "change": None,
    }
    found["change"] = _change(before, found) if since else None
    return dict(bounded(found))


def usable(index: object) -> bool:
    """Whether it is what this module writes: what a folder holds may be another's."""
    return (
        isinstance(index, dict)
        and index.get("schema") == SCHEMA
        and all(name in index and isinstance(index[name], kind) for name, kind in _INDEX.items())
        and all(
            isinstance(one, dict) and all(isinstance(one.get(name), kind) for name, kind in _ROW.items())
            for one in (*index["models"], *index["before"])
        )
    )


def page(index: Mapping[str, Any]) -> str:
    """HTML, in sections by verdict; which are shown, and in which order, is the reader's choice, by style alone."""
    rows = sorted(index["models"], key=lambda one: (_rank(one), one["path"], one["folder"]))
    counts = Counter(_verdict(one) for one in rows)
    shown = rows[:ROWS]
    orders = {
        "accuracy": lambda one: (one["accuracy"] is None, one["accuracy"] or 0.0),
        "time": lambda one: -one["seconds"],
        "name": lambda one: one["path"],
    }
    places = {
        name: {id(one): place for place, one in enumerate(sorted(shown, key=key))}
        for name, key in orders.items()
    }
    text = _template().render(
        index=index,
        sections=[(verdict, [one for one in shown if _verdict(one) == verdict]) for verdict in ORDER],
        counts=counts,
        total=len(rows),
        left_out=len(rows) - len(shown),
        changed=[one for one in shown if one["change"]],
        orders=[*orders],
        style=lambda one: Markup(";".join(f"--{name}:{at[id(one)]}" for name, at in places.items())),
        words=story.OUTCOMES,
        svg=svg,
        percent=plain.percent,
        seconds=plain.seconds,
        css=Markup(files(__package__).joinpath("page.css").read_text("utf-8")),
        own=Markup(files(__package__).joinpath("fleet.css").read_text("utf-8")),
    )
    return uncommanded(text).rstrip("\n") + "\n"


@cache
def _template() -> Template:
    return environment().from_string(files(__package__).joinpath("fleet.html").read_text("utf-8"))


def _verdict(one: Mapping[str, Any]) -> str:
    return one["verdict"] if one["verdict"] in ORDER else "incomplete"


def _rank(one: Mapping[str, Any]) -> int:
    return ORDER.index(_verdict(one))


def _target(report: Report) -> str | None:
    """The class of the worst finding that names one, else that of a detector that fired."""
    named = [(finding.get("place") or {}).get("class") for finding in story.findings(report)]
    fired = [
        one.get("target")
        for one in (report.get("detection") or {}).get("detectors") or ()
        if one.get("fired")
    ]
    first = next((index for index in [*named, *fired] if isinstance(index, int)), None)
    return None if first is None else story.class_name(report, first)


def _change(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str | None:
    """What is other than in the last run, in a few words."""
    if before is None:
        return "new"
    said = []
    if before["verdict"] != after["verdict"]:
        said.append(f"was {story.OUTCOMES.get(before['verdict'], ('unknown', ''))[0].lower()}")
    if before["target"] != after["target"] and before["verdict"] == after["verdict"]:
        said.append(f"was towards {before['target'] or 'no class'}")
    if before["digest"] != after["digest"]:
        said.append("other bytes")
    return ", ".join(said) or None
