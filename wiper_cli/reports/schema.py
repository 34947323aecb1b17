"""The checked-in schema: whether a document keeps it, and its page ``docs/report-format.md``.

Reads the part of JSON Schema 2020-12 that ``schema.json`` uses: an installed wiper needs no validator.
``python -m wiper_cli.reports.schema`` prints the page.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Schema = Mapping[str, Any]

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}


@cache
def schema() -> dict[str, Any]:
    """The whole of ``schema.json``."""
    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text("utf-8"))
    return loaded


def problem(document: Any) -> str:
    """The first thing in which ``document`` departs from the schema, or an empty string."""
    by_name = {"wiper-report/1": "report", "wiper-reports/1": "reports"}
    name = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(name, str) or name not in by_name:
        return f"its schema is not one of {', '.join(by_name)}"
    return _problem(document, schema()["$defs"][by_name[name]], "the document")


def complete(report: Mapping[str, Any]) -> dict[str, Any]:
    """``report`` with every field of the schema that it lacks as ``None``: a template may ask for any."""
    filled: dict[str, Any] = _complete(dict(report), _named("#/$defs/report"))
    return filled


def _complete(value: Any, rule: Schema) -> Any:
    rule = _named(rule["$ref"]) if "$ref" in rule else rule
    if isinstance(value, dict):
        known = rule.get("properties", {})
        return {
            name: _complete(value.get(name), known.get(name, {})) for name in dict.fromkeys([*known, *value])
        }
    if isinstance(value, list) and "items" in rule:
        return [_complete(item, rule["items"]) for item in value]
    return value


def _types(rule: Schema) -> list[str]:
    declared = rule.get("type", [])
    return [declared] if isinstance(declared, str) else list(declared)


def _problem(value: Any, rule: Schema, where: str) -> str:
    wrong = _wrong(value, rule)
    return f"{where}{wrong}" if wrong else ""


def _wrong(value: Any, rule: Schema) -> str:
    """What is wrong, beginning with the way from ``value`` to it: that is made where it is needed alone."""
    if "$ref" in rule:
        rule = _named(rule["$ref"])
    if (types := rule.get("type")) and not any(_TYPES[name](value) for name in _types(rule)):
        return f" is not {types if isinstance(types, str) else ' or '.join(types)}"
    if "const" in rule and value != rule["const"]:
        return f" is not {rule['const']!r}"
    if "enum" in rule and (value not in rule["enum"] or isinstance(value, bool)):
        return f" is none of {', '.join(map(str, rule['enum']))}"
    if isinstance(value, dict):
        return _object_problem(value, rule)
    if isinstance(value, list):
        return _list_problem(value, rule)
    if isinstance(value, str):
        # To JSON Schema the end is the end, to re also the place before a last line break.
        pattern = rule.get("pattern")
        return (
            "" if pattern is None or re.search(pattern.replace("$", r"\Z"), value) else " has the wrong form"
        )
    if isinstance(value, (int, float)):
        low, high = rule.get("minimum", value), rule.get("maximum", value)
        return "" if low <= value <= high else f" is outside {low}..{high}"
    return ""


def _list_problem(value: list[Any], rule: Schema) -> str:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        return f" has {len(value)} entries"
    if items := rule.get("items"):
        for index, item in enumerate(value):
            if wrong := _wrong(item, items):
                return f"[{index}]{wrong}"
    return ""


def _object_problem(value: dict[str, Any], rule: Schema) -> str:
    properties, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    for name in rule.get("required", ()):
        if name not in value:
            return f" has no {name!r}"
    for name, item in value.items():
        kept = properties.get(name)
        if kept is None:
            if others is False:
                return f" has an unknown field {name[:60]!r}"
            if others is True:
                continue
            kept = others
        if wrong := _wrong(item, kept):
            return f", {name[:60]}{wrong}"
    return ""


@cache
def _named(reference: str) -> dict[str, Any]:
    found: dict[str, Any] = schema()["$defs"][reference.removeprefix("#/$defs/")]
    return found


def _kind(rule: Schema) -> str:
    """``rule`` in a few words for a table."""
    if "const" in rule:
        return f"`{rule['const']}`"
    if "enum" in rule:
        return ", ".join(f"`{choice}`" for choice in rule["enum"])
    if "$ref" in rule and rule["$ref"].endswith("/fraction"):
        return "fraction or null"
    if "$ref" in rule:
        return _kind(_named(rule["$ref"]))
    names = [name for name in _types(rule) if name != "array" or "items" not in rule]
    if "items" in rule:
        names.insert(0, f"array of {_kind(rule['items'])}".replace(" or ", "/"))
    return " or ".join(names)


def _rows(rule: Schema, prefix: str, shown: dict[str, str]) -> list[str]:
    """``shown``: definition → the path under which its fields stand already; a second place refers to that."""
    rows = []
    for name, entry in rule.get("properties", {}).items():
        target, place = (_named(entry["$ref"]) if "$ref" in entry else entry), f"{prefix}{name}"
        about = entry.get("description", target.get("description", ""))
        inner, path = (target["items"], f"{place}[]") if "items" in target else (entry, place)
        definition = inner.get("$ref", "")
        if first := shown.get(definition):
            about, below = f"{about} Fields: as in `{first}`.".lstrip(), []
        else:
            below = _rows(_named(definition) if definition else inner, f"{path}.", shown)
            shown |= {definition: path} if definition and below else {}
        rows += [f"| `{place}` | {_kind(entry)} | {about} |", *below]
    return rows


_INTRODUCTION = """# Report format

`-f json` writes one document a run; every other format is rendered from it, also later and without torch:
`wiper report RESULT.json -f html=page.html`. The schema is `wiper_cli/reports/schema.json` (JSON Schema
2020-12). This page is generated from it: `python -m wiper_cli.reports.schema > docs/report-format.md`.

- A run over one model is a *report* (`wiper-report/1`); over several, a list document (`wiper-reports/1`)
  with `reports` and one `exit_code`: 1 before 2 before 3 before 0.
- Fractions are in 0..1. `null` is "not measured"; a part that a command does not have is absent or `null`.
- NaN and infinities do not occur. Text is ASCII with JSON escapes: nothing in a name can steer a terminal. Strings are
  cut at 10,000 characters; half of a surrogate pair (a byte of a file name that is no text) is U+FFFD.
- Classes are given by index into `model.classes`. Names, paths and class names come from the examined files:
  treat them as hostile.
- Fields are added within version 1 only together with the schema; a field never changes its meaning.
- SARIF is 2.1.0, one run for all models; findings sit at line 1 of the file and name tensor, node or archive
  member as logical locations. Fingerprints are made of rule, digest of the file and place.

"""


def markdown() -> str:
    """The page ``docs/report-format.md``."""
    rows = _rows(_named("#/$defs/report"), "", {})
    return _INTRODUCTION + "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
