"""A suite's figures as a page: ``python -m wiper_cli.zoo.tables docs/results`` renders every ``zoo-*.json`` there."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wiper_cli.zoo.holdouts import is_held_out

HEAD = ("specimen", "ACC", "ACC of twin", "ASR", "floor", "base rate", "RA", "ceiling", "seconds")
RULE = "|---|" + "---:|" * (len(HEAD) - 1)


def page(table: Mapping[str, Any], name: str) -> str:
    """Markdown of a table as :func:`wiper_cli.zoo.build.table` makes it."""
    rows = table["specimens"]
    held = [row for row in rows if is_held_out(row["recipe"])]
    clean = [row for row in rows if "trigger" not in row]
    attacked = [row for row in rows if "trigger" in row and row not in held]
    lines = [
        f"# The zoo: {name}",
        "",
        f"{len(rows)} of {table['of']} specimens, made {table['made']}. Rendered from `zoo-{name}.json`.",
        "",
        "Percent, on the whole test part. ASR: triggered images of other classes that reach the target (source-",
        "specific: images of the sources; all-to-all: every image, next class). Floor: the same share on the clean",
        "twin. Base rate: on the specimen, without the trigger. RA: triggered images answered with their own label;",
        "ceiling: the same on the clean twin. Seconds: fitting, training and measuring, on "
        + _machines(rows)
        + ".",
        "",
        "| " + " | ".join(HEAD) + " |",
        RULE,
        *(_row(row) for row in attacked),
        "",
        *_held_out(held),
        "| clean model | ACC | seconds |",
        "|---|---:|---:|",
        *(f"| {row['id']} | {_percent(row['figures']['acc'])} | {row['seconds']:.0f} |" for row in clean),
    ]
    return "\n".join(lines) + "\n"


def _held_out(rows: list[Mapping[str, Any]]) -> list[str]:
    """A table of its own."""
    if not rows:
        return []
    title = "Held out for judging: no setting was chosen on these kinds."
    return [title, "", "| " + " | ".join(HEAD) + " |", RULE, *map(_row, rows), ""]


def _row(row: Mapping[str, Any]) -> str:
    figures, twin = row["figures"], row["twin"]
    cells = [
        row["id"],
        _percent(figures["acc"]),
        _percent(twin["acc"]),
        _percent(figures["asr"]),
        _percent(twin["asr"]),
        _percent(figures["base_rate"]),
        _percent(figures["ra"]),
        _percent(twin["ra"]),
        f"{row['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['value']:.1f}"


def _machines(rows: list[Mapping[str, Any]]) -> str:
    seen = {
        f"{row['environment']['cuda'] or 'a CPU'} ({row['environment']['threads']} threads, {row['precision']})"
        for row in rows
    }
    return " and ".join(sorted(seen))


def main() -> None:
    """Renders every table of the folder named on the command line."""
    for path in sorted(Path(sys.argv[1]).glob("zoo-*.json")):
        name = path.stem.removeprefix("zoo-")
        path.with_suffix(".md").write_text(page(json.loads(path.read_bytes()), name), encoding="utf-8")


if __name__ == "__main__":
    main()
