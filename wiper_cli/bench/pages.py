"""Markdown and CSV of a table from the cells that stand. Imports no torch."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wiper_cli.bench.cells import Cell
from wiper_cli.bench.figures import draw
from wiper_cli.bench.matrix import Entry, Grid, Table, printed, scale_of
from wiper_cli.bench.measures import MEASURES, STALE, Outcome, mean_and_spread, shown
from wiper_cli.bench.standing import Standing
from wiper_cli.verdict import Problem

COLUMNS = (
    "table", "section", "attack", "specimen", "treatment", "seed", "status",
    "acc_before", "asr_before", "ra_before", "acc", "acc_low", "acc_high", "asr", "asr_low", "asr_high", "asr_n",
    "ra", "ra_low", "ra_high", "ra_ceiling", "base_rate", "der", "seconds", "images_seen", "peak_bytes", "bn",
    "largest_change", "printed_acc", "printed_asr", "printed_ra", "cell",
)  # fmt: skip


def files(table: Table, standing: Standing) -> dict[str, bytes]:
    """CSV, page and, for a figure of which something ran, SVG, by their names. Raises :class:`Problem` where a figure
    cannot be drawn."""
    stem = f"{table.name}-{standing.scale}"
    drawing = draw(table, standing) if table.drawn else None
    found = {} if drawing is None else {f"{stem}.svg": drawing}
    found[f"{stem}.csv"] = sheet(table, standing).encode()
    found[f"{stem}.md"] = page(table, standing, None if drawing is None else f"{stem}.svg").encode()
    return found


def page(table: Table, standing: Standing, picture: str | None = None) -> str:
    """Markdown. ``picture``: file name of the figure, beside the page."""
    lines = [f"# {table.name}: {table.title}", ""]
    lines += [f"![{table.title}]({picture})", ""] if picture else []
    lines += [*_heading(table, standing), ""]
    for grid in table.grids:
        lines += [f"## {grid.title}", ""] + ([grid.text, ""] if grid.text else [])
        lines += [*_grid(grid, standing), ""]
    lines += _remarks(table, standing)
    return "\n".join(lines).rstrip() + "\n"


def _heading(table: Table, standing: Standing) -> list[str]:
    scale = scale_of(standing.scale)
    lines = [
        f"Scale {standing.scale}: {', '.join(scale.data)}; seeds {', '.join(map(str, standing.seeds))}"
        f"{' (mean ± standard deviation)' if len(standing.seeds) > 1 else ''}. Rendered from "
        f"cells-{standing.scale}.jsonl by `wiper bench {table.name} --scale {standing.scale} --render-only`."
    ]
    absent = sorted({grid.data for grid in table.grids} - set(scale.data))
    if absent:
        lines.append(
            f"**The scale {standing.scale} has no {' and no '.join(absent)}: nothing of it was run, and only printed "
            "numbers are shown.** `--scale paper` has it."
        )
    if any(grid.printed for grid in table.grids):
        numbers = printed()
        key = next(grid.printed for grid in table.grids if grid.printed)
        lines.append(f"In brackets: {numbers[key]['printed']}. {numbers[key]['source']}.")
    outcomes = [o for o in standing.outcomes.values() if "refused" not in o]
    if outcomes:
        parts = sorted({_parts(o) for o in outcomes if "parts" in o})
        tests = sorted({str(o["before"]["acc"]["n"]) for o in outcomes if "before" in o})
        lines.append(
            "Percent. ACC, ASR and RA are measured on "
            + (f"{', '.join(tests)} test images" if tests else "test images")
            + " that nothing else saw; ASR and RA leave out images of the target."
            + (f" Clean images: {'; '.join(parts)}." if parts else "")
        )
        lines.append("Machine: " + "; ".join(sorted({_machine(o) for o in outcomes})) + ".")
    return lines


def _parts(outcome: Outcome) -> str:
    return " / ".join(f"{count} to {name}" for name, count in outcome["parts"].items())


def _machine(outcome: Outcome) -> str:
    run = outcome["run"]
    which = run["cuda"] if run["device"] == "cuda" else f"CPU, {run['threads']} of {run['cores']} cores"
    return f"{which} ({run['machine']}), Python {run['python']}, torch {run['torch']}"


def _grid(grid: Grid, standing: Standing) -> list[str]:
    found = {(e.attack.title, e.treatment.title): e for e in standing.entries(grid)}
    down, along = (grid.treatments, grid.attacks) if grid.across else (grid.attacks, grid.treatments)
    numbers = printed()[grid.printed]["values"] if grid.printed else {}

    def texts(row: Any, column: Any) -> list[str]:
        attack, treatment = (column, row) if grid.across else (row, column)
        entry = found[attack.title, treatment.title]
        beside = _printed(numbers, entry)
        every = [shown(MEASURES[name], standing.of(entry), beside) for name in grid.measures]
        mark = "" if standing.of(entry) else _mark(entry, standing)
        if mark:
            every[0] = every[0].replace("–", mark, 1)
        if grid.split:
            return every
        return [" / ".join(every) if standing.of(entry) or beside else mark or "–"]

    titles = [MEASURES[name].title for name in grid.measures]
    head = ["defence" if grid.across else "attack"]
    for column in along:
        head += [f"{column.title} {title}" for title in titles] if grid.split else [column.title]
    averaged = grid.across and not grid.split and len(grid.attacks) > 1
    head += ["mean (of so many)"] if averaged else []
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in down:
        cells = [text for column in along for text in texts(row, column)]
        if averaged:
            cells.append(
                _mean(grid, [standing.of(found[attack.title, row.title]) for attack in grid.attacks])
            )
        lines.append("| " + " | ".join([row.title, *cells]) + " |")
    return lines


def _mean(grid: Grid, by_attack: Sequence[Sequence[Outcome]]) -> str:
    """Of each measure over the attacks that ran, every attack by its own mean."""
    told, count = [], 0
    for measure in (MEASURES[name] for name in grid.measures):
        every = [
            [v for outcome in outcomes if (v := measure.of(outcome)) is not None] for outcomes in by_attack
        ]
        means = [mean_and_spread(values)[0] for values in every if values]
        mark = STALE if any("stale" in outcome for outcomes in by_attack for outcome in outcomes) else ""
        told.append(f"{mean_and_spread(means)[0]:.{measure.digits}f}{mark}" if means else "–")
        count = max(count, len(means))
    return f"{' / '.join(told)} ({count})" if count else "–"


def _printed(numbers: Mapping[str, Any], entry: Entry) -> list[float] | None:
    by_treatment = numbers.get(entry.attack.paper or entry.attack.title, {})
    found: list[float] | None = by_treatment.get(entry.treatment.paper or entry.treatment.title)
    return found


def _mark(entry: Entry, standing: Standing) -> str:
    """Why there is no number of ours, in a word."""
    if entry.specimen is None:
        return ""
    if not entry.treatment.name:
        return "not run"
    if standing.all_of(entry):
        return "refused"
    return "not run"


def _remarks(table: Table, standing: Standing) -> list[str]:
    """What is missing, refused, cut, and what to know of the printed numbers."""
    every = [entry for grid in table.grids for entry in standing.entries(grid)]
    lines: list[str] = []
    cells = {cell for entry in every for cell in entry.cells}
    missing = [cell for cell in cells if cell not in standing.outcomes]
    if cells:
        lines.append(f"- {len(cells) - len(missing)} of {len(cells)} cells stand.")
    if changed := standing.stale():
        lines.append(
            f"- {STALE} Measured before a change, and to be run again: "
            + "; ".join(f"{change} ({count})" for change, count in sorted(changed.items()))
            + "."
        )
    if missing:
        whole = Counter(cell.specimen for cell in cells)
        gone = sorted(
            name for name, count in Counter(c.specimen for c in missing).items() if count == whole[name]
        )
        if gone:
            lines.append(f"- Nothing was run on {', '.join(gone)}.")
    no_recipe = sorted(
        {e.attack.title for g in table.grids if g.data in scale_of(standing.scale).data for e in standing.entries(g)
         if e.specimen is None}
    )  # fmt: skip
    if no_recipe:
        lines.append(f"- The scale {standing.scale} has no specimen of {', '.join(no_recipe)}.")
    refused: dict[str, list[str]] = {}
    for cell, outcome in standing.outcomes.items():
        if "refused" in outcome:
            refused.setdefault(f"{cell.name}: {outcome['refused']}", []).append(cell.specimen)
    unknown = {e.treatment.title: why for e in every for why in [_unknown(e)] if why}
    lines += [f"- Refused ({len(names)}): {why}" for why, names in sorted(refused.items())]
    lines += [f"- Cannot be run: {title}. {why}" for title, why in sorted(unknown.items())]
    cut = sorted({text for entry in every for text in _cut(entry, standing.scale)})
    if cut:
        lines.append(f"- Shortened at this scale: {'; '.join(cut)}.")
    lines += [f"- {_variant(entry)}" for entry in _variants(every)]
    notes = [note for grid in table.grids if grid.printed for note in printed()[grid.printed]["footnotes"]]
    if notes:
        lines += ["", "Of the printed numbers:", "", *(f"{i}. {note}" for i, note in enumerate(notes, 1))]
    return (["## Remarks", "", *lines]) if lines else []


def _unknown(entry: Entry) -> str:
    for cell in entry.cells[:1]:
        if cell.kind == "purify":
            try:
                cell.purifier()
            except Problem as problem:
                return str(problem)
    return ""


def _cut(entry: Entry, scale: str) -> list[str]:
    own = scale_of(scale)
    return [
        f"{cell.name} ({cell.preset}) {key} {value}"
        for cell in entry.cells[:1]
        for key, value in cell.settings
        if {**own.caps.get(cell.name, {}), **own.instead.get(cell.name, {})}.get(key) == value
        and key not in entry.treatment.settings
    ]


def _variants(every: Sequence[Entry]) -> list[Entry]:
    """One entry of each specimen that the suite plants in another way than its attack does by itself."""
    found = {
        e.specimen: e
        for e in every
        if e.specimen and e.recipe is not None and (e.recipe.label or e.recipe.poisoning)
    }
    return [found[name] for name in sorted(found)]


def _variant(entry: Entry) -> str:
    assert entry.recipe is not None
    own = {**entry.recipe.parameters, **entry.recipe.poisoning}
    told = ", ".join(f"{key} {value}" for key, value in sorted(own.items()))
    return f"{entry.attack.title} is {entry.specimen} here: {told}."


def sheet(table: Table, standing: Standing) -> str:
    """CSV, one line a cell and one for every place without any."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for grid in table.grids:
        numbers = printed()[grid.printed]["values"] if grid.printed else {}
        for entry in standing.entries(grid):
            row: dict[str, Any] = {
                "table": table.name,
                "section": grid.title,
                "attack": entry.attack.title,
                "specimen": entry.specimen or "",
                "treatment": entry.treatment.title,
                **dict(
                    zip(
                        ("printed_acc", "printed_asr", "printed_ra"),
                        _printed(numbers, entry) or (),
                        strict=False,
                    )
                ),
            }
            lines = [_line(cell, standing.outcomes.get(cell)) for cell in entry.cells]
            if not entry.treatment.name:
                lines = [_measured(outcome) | {"status": "before"} for outcome in standing.of(entry)]
            for line in lines or [{"status": "no specimen" if entry.specimen is None else "not run"}]:
                writer.writerow({**row, **line})
    return out.getvalue()


def _line(cell: Cell, outcome: Outcome | None) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": cell.seed, "cell": cell.id}
    if outcome is None:
        return found | {"status": "not run"}
    if "refused" in outcome:
        return found | {"status": f"refused: {outcome['refused']}"}
    status = "; ".join(["stale", *outcome["stale"]]) if "stale" in outcome else "ran"
    return found | {"status": status} | _measured(outcome)


def _measured(outcome: Outcome) -> dict[str, Any]:
    after, before, specimen = outcome.get("after", {}), outcome.get("before", {}), outcome.get("specimen", {})
    found: dict[str, Any] = {f"{key}_before": _value(before.get(key)) for key in ("acc", "asr", "ra")}
    for key in ("acc", "asr", "ra"):
        share = after.get(key)
        found[key] = _value(share)
        found[f"{key}_low"], found[f"{key}_high"] = share["interval"] if share else (None, None)
    return found | {
        "asr_n": (after.get("asr") or {}).get("n"),
        "ra_ceiling": _value((specimen.get("twin") or {}).get("ra")),
        "base_rate": _value(after.get("base_rate")),
        "der": outcome.get("der"),
        "seconds": outcome.get("seconds"),
        "images_seen": outcome.get("images_seen"),
        "peak_bytes": outcome.get("peak_bytes", {}).get("host"),
        "bn": specimen.get("bn"),
        "largest_change": MEASURES["moved"].of(outcome),
    }


def _value(share: Mapping[str, Any] | None) -> Any:
    return None if share is None else share["value"]
