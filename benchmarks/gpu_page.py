"""The page of :mod:`benchmarks.gpu`, from its result alone, and what is wrong with one. Imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "gpu.md"
TITLES = {
    "field": "Today's attacks and the strongest defences: the suite `field`",
    "table2": "The paper's Table 2 at full size",
}
Result = Mapping[str, Any]


def bad(result: Result) -> list[str]:
    """A sentence on whatever should not be."""
    found = [f"{name}: {one}" for name, part in result["parts"].items() for one in part["failed"]]
    tests = result["parts"]["tests"]["done"].get("tests")
    if tests and not tests["tests"] - tests["skipped"]:
        found.append("tests: none ran")
    found += [f"tests: {name} failed" for name in (tests or {}).get("failed_tests", ())]
    pairs = result["parts"]["agreement"]["done"].items()
    return found + [
        f"{name}: the device decides otherwise than the CPU" for name, one in pairs if not one["agree"]
    ]


def page(result: Result) -> str:
    """``docs/results/gpu.md``. Raises ValueError for a result that is no GPU's, or of a smoke test."""
    if not result["gpu"] or result["smoke"]:
        raise ValueError("this result says nothing of a GPU")
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    done = {name: part["done"] for name, part in result["parts"].items()}
    yield from (
        "# On a GPU",
        "",
        "Made by `python -m benchmarks.gpu` from `benchmarks/results/gpu.json`.",
        "",
    )
    yield f"{result['gpu']}, torch {result['environment']['torch']}, bounded to {result['minutes']:g} minutes."
    yield from ("", "What is wrong:", "", *(f"- {one}" for one in bad(result))) if bad(result) else ()
    missed = {name: part["not_reached"] for name, part in result["parts"].items() if part["not_reached"]}
    if missed:
        yield from ("", "Not reached:", "")
        yield from (f"- {name}: {', '.join(one)}" for name, one in missed.items())
    if tests := done["tests"].get("tests"):
        failed = tests["failures"] + tests["errors"]
        yield from ("", "## The tests for CUDA", "")
        yield f"{tests['tests']} tests, {failed} failed, {tests['skipped']} skipped."
    if done["agreement"]:
        yield from (
            "",
            "## CPU against CUDA",
            "",
            "| | largest difference | CPU | CUDA |",
            "|---|---:|---|---|",
        )
    for name, one in done["agreement"].items():
        yield f"| {name} | {one['largest_difference']:.3g} | {' | '.join(map(str, one['decided']))} |"
    if done["throughput"]:
        yield from ("", "## Throughput beside bare loops", "")
        yield "Operations a second (convolutions and matrix products), over those of a bare torch loop in the same run."
        yield from ("", "| | 10^12 a second | over float32 | over bfloat16 |", "|---|---:|---:|---:|")
    for name, one in done["throughput"].items():
        speed, ratios = one["operations_a_second"]["ours"] / 1e12, one["ratios"].values()
        yield f"| {name} | {speed:.2f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"
    for name, title in TITLES.items():
        if done[name]:
            yield from ("", f"## {title}", "", "ACC / ASR / RA, percent.", "", *_table(done[name]))


def _table(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Attacks side by side, as far as they were reached."""
    yield f"| defence | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * len(columns)
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        yield f"| {row} | {' | '.join(_cell(column.get(row)) for column in columns.values())} |"


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return (
        "refused" if "refused" in found else " / ".join(f"{found[key]:.2f}" for key in ("acc", "asr", "ra"))
    )
