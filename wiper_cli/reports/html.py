"""The report as one self-contained page: no script, no network, every string escaped, under 2 MB."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from wiper_cli import rules
from wiper_cli.reports import plain, story, svg
from wiper_cli.reports.following import following
from wiper_cli.reports.json import as_document
from wiper_cli.reports.plain import Report, Style
from wiper_cli.reports.schema import complete

#: Characters of a page. What its words leave is shared by the pictures (two thirds) and the JSON copy.
LIMIT = 1_900_000

_PREFIX = "data:image/png;base64,"
_PICTURE = re.compile(re.escape(_PREFIX) + "[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Thumbnail:
    """A PNG with the size at which it is shown: an even multiple of its own up to 192 pixels (half of it on a
    narrow screen), or its own."""

    name: str
    uri: Markup
    width: int
    height: int
    halves: bool


@dataclass(frozen=True)
class Row:
    """One trigger's pictures. ``left_out``: why there are fewer than there could be."""

    title: str
    about: list[story.Row]
    thumbnails: list[Thumbnail]
    left_out: str = ""
    #: Of more of its kind: what tells them apart, success, accuracy under it.
    others: Sequence[tuple[str, str, str]] = ()


def render(reports: Sequence[Report], style: Style) -> str:
    free = max(0, LIMIT - len(_page(reports, 0, 0)))
    return _page(reports, free * 2 // 3, free // 3)


def _page(reports: Sequence[Report], pictures: int, copy: int) -> str:
    """The page with at most so many characters of pictures and of the JSON copy."""
    return _template().render(
        views=[_view(report, pictures // len(reports)) for report in reports],
        css=Markup(files(__package__).joinpath("page.css").read_text("utf-8")),
        copy=_copy(reports, copy),
        story=story,
        svg=svg,
        rules=rules,
        words=plain.words,
        number=plain.number,
        percent=plain.percent,
        label=plain.label,
        rows_shown=story.ROWS,
    )


def environment() -> Environment:
    """Where every string is escaped on its way into a page."""
    return Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )


@cache
def _template() -> Template:
    return environment().from_string(files(__package__).joinpath("page.html").read_text("utf-8"))


def _shown(value: Any) -> Any:
    """Every string on its way into the page; what we wrote ourselves is Markup already."""
    return plain.plain(value, 600) if isinstance(value, str) and not isinstance(value, Markup) else value


def _view(report: Report, budget: int) -> dict[str, Any]:
    report = complete(report)
    triggers = list(_rows(report, budget))
    left = budget - sum(len(picture.uri) for row in triggers for picture in row.thumbnails)
    branch = _thumbnails(next((one["pictures"] for one in report["findings"] if one["pictures"]), {}), left)
    left -= sum(len(picture.uri) for picture in branch)
    return {
        "report": report,
        "outcome": story.outcome(report),
        "word": story.OUTCOMES[story.outcome(report)][0],
        "title": plain.plain(
            (report.get("model") or {}).get("path", "no file").replace("\\", "/").split("/")[-1], 120
        ),
        "facts": Markup(" · ").join(_facts(report)),
        "next": following(report),
        "measures": story.measures(report),
        "triggers": triggers,
        "branch": branch,
        "probes": (report["verification"] or {}).get("probes") or [],
        "salience": _salience(report),
        "explanation": _explanation(report, left),
        "history": _history(report),
        "changed": ((report.get("purification") or {}).get("changed") or [])[: story.ROWS],
    }


def _facts(report: Report) -> Iterator[str]:
    """What the file is, in one line under its name."""
    model, clean = report["model"] or {}, report["clean"] or {}
    if model:
        yield Markup(str(escape(plain.plain(model["path"], 160))).replace("/", "/<wbr>"))
        yield from (
            plain.plain(part, 60)
            for part in (model["kind"], (model["architecture"] or {}).get("name"))
            if part
        )
    if model.get("size") is not None:
        yield plain.size(model["size"])
    if clean.get("images") is not None:
        yield f"{clean['images']:,} clean images"


def _rows(report: Report, budget: int) -> Iterator[Row]:
    """Recovered triggers not measured again, then those measured, of several alike the strongest; pictures while the
    budget lasts."""
    entries: list[tuple[str, list[story.Row], Mapping[str, Any], list[tuple[str, str, str]]]] = []
    again = {(trigger["family"], trigger.get("target")) for trigger, _ in story.pairs(report)}
    for detector in sorted(story.all_detectors(report), key=lambda detector: not detector.get("fired")):
        trigger = detector.get("trigger")
        if trigger and (trigger["family"], trigger.get("target")) not in again:
            facts = (trigger.get("facts") or {}).items()
            shown = [(plain.label(key), plain.fact(key, value)) for key, value in facts]
            about = [("target", story.led(report, trigger)), *shown]
            found = "Recovered" if detector.get("fired") else "Strongest found, its detector silent:"
            entries.append((f"{found} {trigger['family']}", about, trigger.get("pictures") or {}, []))
    for (trigger, twin), *others in _alike(story.pairs(report)):
        title = story.named(trigger)
        more = [(_where(one), _shares(one, after, "asr"), _shares(one, after, "ra")) for one, after in others]
        pictures = trigger.get("pictures") or {}
        entries.append((title[:1].upper() + title[1:], _about(report, trigger, twin), pictures, more))
    for title, about, pictures, more in entries[: story.ROWS]:
        thumbnails = _thumbnails(pictures, budget)
        budget -= sum(len(picture.uri) for picture in thumbnails)
        left_out = ""
        if len(thumbnails) < sum(bool(uri) for uri in pictures.values()):
            left_out = "A picture was left out: it is no small PNG, or the page would grow beyond 2 MB."
        yield Row(plain.plain(title, 120), about[:12], thumbnails, left_out, more)


_Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def _alike(pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    """Triggers of one origin, family and target, in the order of the first; the strongest afterwards goes first, then
    the one that was strongest before."""
    groups: dict[tuple[Any, ...], list[_Pair]] = {}
    for trigger, twin in pairs:
        groups.setdefault((trigger["origin"], trigger["family"], trigger.get("target")), []).append(
            (trigger, twin)
        )

    def strength(pair: _Pair) -> tuple[float, ...]:
        rates = [story.rate(one.get("asr")) for one in reversed(pair)]
        return tuple(-(rate.value if rate else 0.0) for rate in rates)

    return [sorted(group, key=strength) for group in groups.values()]


def _about(report: Report, trigger: Mapping[str, Any], twin: Mapping[str, Any]) -> list[story.Row]:
    about = [("target", story.led(report, trigger))]
    for name, key in (("success", "asr"), ("accuracy under it", "ra"), ("base rate", "base_rate")):
        if texts := _rates(trigger, twin, key):
            about.append((name, texts))
    corrected = [entry.get("corrected_asr") for entry in (trigger, twin)]
    if corrected[0] is not None:
        said = [plain.percent(value) for value in corrected if value is not None]
        about.append(("beyond the base rate", " → ".join(said)))
    if trigger.get("target_chosen_by"):
        about.append(("target chosen by", plain.plain(trigger["target_chosen_by"], 200)))
    given = {key: value for key, value in (trigger.get("parameters") or {}).items() if value is not None}
    if {"success", "images"} <= given.keys():
        success, images = given.pop("success"), given.pop("images")
        about.append(("as it was found", f"{plain.fact('success', success)} of {plain.words(images)} images"))
    return about + [(plain.label(key), plain.words(value)) for key, value in given.items()]


def _where(trigger: Mapping[str, Any]) -> str:
    """What tells one from others of its kind."""
    given = trigger.get("parameters") or {}
    told = [
        f"{plain.label(key)} {plain.words(value, 60)}" for key, value in given.items() if value is not None
    ]
    return ", ".join(one for one in told if not one.startswith(("success ", "images ")))[:200]


def _rates(trigger: Mapping[str, Any], twin: Mapping[str, Any], key: str) -> str:
    """``98.0% … → 1.0% …``; empty where neither was measured."""
    found = [story.rate(one.get(key)) for one in (trigger, twin)]
    return " → ".join(rate.text for rate in found if rate)


def _shares(trigger: Mapping[str, Any], twin: Mapping[str, Any], key: str) -> str:
    """The same without intervals."""
    found = [story.rate(one.get(key)) for one in (trigger, twin)]
    return " → ".join(plain.percent(rate.value) for rate in found if rate)


def _thumbnails(pictures: Mapping[str, Any], budget: int) -> list[Thumbnail]:
    """Those of ``clean``, ``triggered``, ``difference`` that are small enough."""
    found = []
    for name in ("clean", "triggered", "difference"):
        uri = pictures.get(name)
        picture = _thumbnail(name, uri) if uri and len(uri) <= budget else None
        if picture:
            budget -= len(picture.uri)
            found.append(picture)
    return found


def _thumbnail(name: str, uri: str) -> Thumbnail | None:
    """``None`` for anything but a PNG of 1 to 1024 pixels a side."""
    if not _PICTURE.fullmatch(uri):
        return None
    try:
        head = base64.b64decode(uri[len(_PREFIX) :][:44], validate=True)
    except binascii.Error:
        return None
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if not (1 <= width <= 1024 and 1 <= height <= 1024):
        return None
    scale = max(1, 192 // max(width, height) // 2 * 2)
    return Thumbnail(name, Markup(uri), width * scale, height * scale, scale > 1)


def _salience(report: Report) -> dict[str, Any] | None:
    salience = report.get("salience")
    if not salience or not any(value is not None for value in salience["units"]):
        return None
    head = ((report.get("model") or {}).get("head") or {}).get("weight")
    done = report.get("purification") or {}
    touched = [
        unit
        for entry in done.get("changed") or ()
        if entry["address"] == head
        for unit in entry.get("units") or ()
    ]
    order = svg.ranked(salience["units"])
    ends = order if len(order) <= story.ROWS else order[: story.ROWS // 2] + order[-story.ROWS // 2 :]
    columns = {salience["metric"]: salience["units"], "MBS": salience.get("mbs"), "AM": salience.get("am")}
    return {
        "drawing": svg.bars(salience["units"], touched),
        "touched": touched,
        "columns": {name: values for name, values in columns.items() if values},
        "rows": [(order.index(unit) + 1, unit) for unit in ends],
        "count": len(order),
        "facts": salience,
    }


#: Picture of an explanation → the words below it.
_LOOKING: Mapping[str, str] = {
    "triggered": "triggered image",
    "moved": "units moved most",
    "lowest": "lowest BS",
    "others": "all but the lowest BS",
}


def _explanation(report: Report, budget: int) -> dict[str, Any] | None:
    """Each metric on clean and on triggered images in one order, and where groups of units look."""
    shown, salience = report.get("explanation"), report.get("salience")
    if not shown or not salience:
        return None
    clean = {"bs": salience["units"], "am": salience.get("am")}
    drawings = []
    columns: dict[str, Sequence[float | None]] = {}
    for name, before in clean.items():
        after = shown.get(name)
        if before and after and len(before) == len(after):
            order = svg.ranked(before)
            for where, values in (("clean", before), ("triggered", after)):
                title = f"{name.upper()}, {where} images"
                drawings.append((title, svg.bars(values, shown.get("moved") or (), order, title)))
                columns[title] = values
    columns["change"] = shown.get("change") or ()
    rows = []
    for found in (shown.get("pictures") or ())[: story.ROWS]:
        thumbnails = []
        for name, said in _LOOKING.items():
            uri = found.get(name)
            picture = _thumbnail(said, uri) if uri and len(uri) <= budget else None
            if picture:
                budget -= len(picture.uri)
                thumbnails.append(picture)
        rows.append(thumbnails)
    return {
        "drawings": drawings,
        "columns": columns,
        "units": svg.ranked(columns["change"])[: story.ROWS],
        "rows": [row for row in rows if row],
    }


def _history(report: Report) -> dict[str, Any] | None:
    epochs = (report.get("purification") or {}).get("history") or []
    if not epochs:
        return None
    names = list(dict.fromkeys(key for entry in epochs for key in entry.get("loss") or {}))[:6]
    losses = [
        (plain.plain(name, 40), [(entry.get("loss") or {}).get(name) for entry in epochs]) for name in names
    ]
    accuracy = [entry.get("select_accuracy") for entry in epochs]
    measured = [value for value in accuracy if value is not None]
    greatest = [value for _, values in losses for value in values if value is not None]
    low, high = max(0.0, min(measured, default=0.0) - 0.02), min(1.0, max(measured, default=1.0) + 0.02)
    return {
        "epochs": epochs,
        "names": names,
        "accuracy": svg.curves([("accuracy", accuracy)], low, high, True) if measured else "",
        "loss": svg.curves(losses, min(0.0, *greatest), max(greatest), False) if greatest else "",
        "legend": [(svg.sample(index), name) for index, (name, _) in enumerate(losses)],
    }


def _copy(reports: Sequence[Report], budget: int) -> tuple[Markup, str]:
    """(data URI of the result, what it lacks); without pictures, or empty, when it would be too large."""
    content = as_document(reports)
    for lacking in ("", "without the pictures") if budget else ():
        content = _without_pictures(content) if lacking else content
        encoded = base64.b64encode(json.dumps(content, separators=(",", ":")).encode()).decode()
        if len(encoded) <= budget:
            return Markup(f"data:application/json;base64,{encoded}"), lacking
    return Markup(""), ""


def _without_pictures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key == "pictures" else _without_pictures(item) for key, item in value.items()}
    return [_without_pictures(item) for item in value] if isinstance(value, list) else value
