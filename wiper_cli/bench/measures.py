"""What a table shows of an outcome: named numbers, their mean over seeds, and their spread. Standard library only."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = Mapping[str, Any]
#: Behind a number that was measured before something changed.
STALE = "†"


@dataclass(frozen=True)
class Measure:
    """``of``: an outcome → a number, ``None`` where it has none. ``digits``: after the point. ``printed``: place of
    the number in a list of printed ones."""

    title: str
    of: Callable[[Outcome], float | None]
    digits: int = 1
    printed: int | None = None


def _share(outcome: Outcome, key: str, when: str = "after") -> float | None:
    found = outcome.get(when, {}).get(key)
    return None if found is None or found["value"] is None else 100 * found["value"]


def _part(*path: str, times: float = 1.0) -> Callable[[Outcome], float | None]:
    def of(outcome: Outcome) -> float | None:
        found: Any = outcome
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else times * float(found)

    return of


def _twin(outcome: Outcome) -> Mapping[str, Any]:
    return outcome.get("specimen", {}).get("twin") or {}


def _lost(outcome: Outcome) -> float | None:
    old, new = _share(outcome, "acc", "before"), _share(outcome, "acc")
    return None if old is None or new is None else old - new


def _of_ceiling(outcome: Outcome) -> float | None:
    ra, ceiling = _share(outcome, "ra"), _twin(outcome).get("ra", {}).get("value")
    return 100 * ra / (100 * ceiling) if ra is not None and ceiling else None


def _speed(outcome: Outcome) -> float | None:
    seen, seconds = outcome.get("images_seen"), outcome.get("seconds")
    return seen / seconds if seen and seconds else None


def _low(choose: Callable[[list[float]], float]) -> Callable[[Outcome], float | None]:
    def of(outcome: Outcome) -> float | None:
        found = [look["low_units"] for look in outcome.get("watched") or []]
        return choose(found) if found else None

    return of


MEASURES: Mapping[str, Measure] = {
    "acc": Measure("ACC", lambda o: _share(o, "acc"), 2, 0),
    "asr": Measure("ASR", lambda o: _share(o, "asr"), 2, 1),
    "ra": Measure("RA", lambda o: _share(o, "ra"), 2, 2),
    "ra_of_ceiling": Measure("RA of its ceiling", _of_ceiling),
    "base_rate": Measure("base rate", lambda o: _share(o, "base_rate")),
    "der": Measure("DER", _part("der", times=100.0)),
    "acc_lost": Measure("ACC lost", _lost, 2),
    "seconds": Measure("seconds", _part("seconds")),
    "images_seen": Measure("images", _part("images_seen"), 0),
    "speed": Measure("images/s", _speed, 0),
    "memory": Measure("MB", _part("peak_bytes", "host", times=1e-6), 0),
    "moved": Measure("largest change", _part("moved", "largest"), 4),
    "head_moved": Measure("of the head", _part("moved", "head", "largest"), 4),
    "over_one": Measure("head weights over 1", _part("moved", "head", "over_one"), 0),
    "low_before": Measure("before", _low(lambda looks: looks[0]), 4),
    "low_least": Measure("least", _low(min), 4),
    "low_after": Measure("after", _low(lambda looks: looks[-1]), 4),
    "precision10": Measure("lowest 10 %", _part("precision", "0.1", "change", times=100.0)),
    "precision50": Measure("lowest 50 %", _part("precision", "0.5", "change", times=100.0)),
    "with_change": Measure("rank correlation with change", _part("rank_correlation_with_change"), 2),
    "with_bs": Measure("with BS", _part("rank_correlation_with_bs"), 2),
    "rank_correlation": Measure("between halves", _part("rank_correlation"), 2),
    "overlap": Measure("overlap", _part("lowest_half_overlap", times=100.0)),
    "metric_seconds": Measure("metric, s", _part("seconds"), 4),
    "forward_seconds": Measure("forward pass, s", _part("forward_seconds"), 2),
}


def untouched(outcome: Outcome) -> dict[str, Any]:
    """An outcome as if nothing had been done: the row "before"."""
    kept = {key: outcome.get(key, {}) for key in ("before", "specimen")}
    return {**kept, "after": kept["before"]}


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the sample's standard deviation where there are two or more."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(measure: Measure, outcomes: Sequence[Outcome], printed: Sequence[float] | None = None) -> str:
    """``ours ± spread (printed)``; "–" for what is not there, a mark for what is stale."""
    values = [value for outcome in outcomes if (value := measure.of(outcome)) is not None]
    text = "–"
    if values:
        mean, spread = mean_and_spread(values)
        text = f"{mean:.{measure.digits}f}" + (
            f" ± {spread:.{measure.digits}f}" if spread is not None else ""
        )
        text += STALE if any("stale" in outcome for outcome in outcomes) else ""
    if printed is not None and measure.printed is not None and measure.printed < len(printed):
        text += f" ({printed[measure.printed]:.2f})"
    return text
