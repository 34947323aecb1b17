"""Figures as SVG by matplotlib (extra ``bench``), loaded when one is drawn."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wiper_cli.bench.matrix import Table
from wiper_cli.bench.measures import MEASURES, Outcome, mean_and_spread
from wiper_cli.bench.plans import BASELINES, COUNTS
from wiper_cli.bench.standing import Standing
from wiper_cli.verdict import ExitCode, Problem

#: Told apart in print and by most eyes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
#: Of lines that may lie on one another: the earlier show on either side of the later.
WIDTHS = (4.0, 2.2, 0.9)


def draw(table: Table, standing: Standing) -> bytes | None:
    """The figure as :func:`saved` has it; ``None`` when nothing of it was run."""
    return saved(table.name, lambda: _DRAWN[table.drawn](table, standing))


def saved(name: str, make: Callable[[], Any]) -> bytes | None:
    """What ``make`` draws (a matplotlib figure or ``None``) as SVG, always the same bytes for the same figure.

    Raises :class:`Problem` without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise Problem("Figures need matplotlib: pip install matplotlib.", ExitCode.NO_VERDICT) from None
    # Agg draws without a screen; the salt makes the ids in the file the same each time.
    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": 8, "svg.fonttype": "none"}):
        figure = make()
        if figure is None:
            return None
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def panels(rows: int, columns: int, width: float = 2.4, height: float = 2.0) -> tuple[Any, Any]:
    # No pyplot: it keeps every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def penalties(table: Table, standing: Standing) -> Any:
    """Figure 1: AR, L1 and L2 over w."""
    figure, axes = panels(1, 1, 4, 3)
    axis, w = axes[0][0], [i / 50 - 2.5 for i in range(251)]
    curves: Mapping[str, Callable[[float], float]] = {
        "L1": abs,
        "L2": lambda v: v * v,
        "AR": lambda v: abs(v) if abs(v) <= 1 else math.exp(abs(v) - 1),
    }
    for colour, (name, of) in zip(COLOURS, curves.items(), strict=False):
        axis.plot(w, [of(v) for v in w], label=name, color=colour)
    axis.set_xlabel("w")
    axis.set_ylabel("penalty")
    axis.set_ylim(0, 5)
    axis.legend()
    return figure


def ratios(table: Table, standing: Standing) -> Any:
    """Figures 5 to 7: ACC and ASR over the number of clean images, a panel an attack."""

    def plot(axis: Any, measure: str, outcomes: Callable[[str], list[Outcome]]) -> None:
        for colour, one in zip(COLOURS, BASELINES, strict=True):
            own = [outcomes(f"{one.title}, {words}") for words in COUNTS]
            points = [(_images(found[0]), mean) for found in own for mean in _means(found, measure)]
            axis.plot(*_columns(points), "o-", ms=3, color=colour, label=one.title)
        axis.set_xscale("log")

    return _by_attack(table, standing, "clean images", plot)


def regularisers(table: Table, standing: Standing) -> Any:
    """Figures 8 to 10: ACC and ASR after every epoch, a panel an attack."""

    def plot(axis: Any, measure: str, outcomes: Callable[[str], list[Outcome]]) -> None:
        for colour, width, one in zip(COLOURS, WIDTHS, table.grids[0].treatments, strict=False):
            curve = _columns(_curve(outcomes(one.title), measure))
            axis.plot(*curve, color=colour, linewidth=width, label=one.title)

    return _by_attack(table, standing, "epoch", plot)


def _by_attack(table: Table, standing: Standing, across: str, plot: Callable[..., None]) -> Any:
    """Two rows, ACC and ASR, of a panel an attack, each filled by ``plot(axis, measure, outcomes by treatment)``."""
    grid = table.grids[0]
    found = {(e.attack.title, e.treatment.title): standing.of(e) for e in standing.entries(grid)}
    if not any(found.values()):
        return None
    figure, axes = panels(2, len(grid.attacks))
    for column, attack in enumerate(grid.attacks):
        for row, measure in enumerate(("acc", "asr")):
            axis = axes[row][column]
            plot(axis, measure, lambda title, own=attack.title: found[own, title])
            axis.set_ylim(-3, 103)
            axis.set_ylabel(f"{measure.upper()}, %" if column == 0 else "")
            axis.set_xlabel(across if row else "")
            axis.set_title(attack.title if row == 0 else "")
    axes[0][0].legend(fontsize=6)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> Iterable[Sequence[float]]:
    return zip(*points, strict=True) if points else ([], [])


def _images(outcome: Outcome) -> int:
    """Clean images that a method was given, in all parts."""
    return sum(outcome["parts"].values())


def _means(outcomes: list[Outcome], measure: str) -> list[float]:
    """The mean over seeds, or nothing."""
    values = [v for outcome in outcomes if (v := MEASURES[measure].of(outcome)) is not None]
    return [mean_and_spread(values)[0]] if values else []


def _curve(outcomes: list[Outcome], measure: str) -> list[tuple[float, float]]:
    """Mean over seeds by epoch, in percent."""
    by_epoch: dict[int, list[float]] = {}
    for outcome in outcomes:
        for look in outcome.get("watched") or []:
            if measure in look:
                by_epoch.setdefault(look["epoch"], []).append(100 * look[measure]["value"])
    return [(epoch, mean_and_spread(values)[0]) for epoch, values in sorted(by_epoch.items())]


def units(table: Table, standing: Standing) -> Any:
    """Figures 3 and 4: a metric of every unit on clean images, in descending order, and on triggered ones; where the
    lowest tenth and the others look on one triggered image."""
    entries = standing.entries(table.grids[0])
    found = [(e, outcomes[0]) for e in entries if (outcomes := standing.of(e)) and "triggered" in outcomes[0]]
    if not found:
        return None
    figure, axes = panels(len(found), 4, 2.6, 2.2)
    for row, (entry, outcome) in enumerate(found):
        order = sorted(range(len(outcome["clean"])), key=lambda j: -outcome["clean"][j])
        for column, (key, words) in enumerate((("clean", "clean images"), ("triggered", "triggered images"))):
            axis = axes[row][column]
            axis.bar(range(len(order)), [outcome[key][j] for j in order], color=COLOURS[column], width=1.0)
            axis.set_title(f"{entry.treatment.title}, {words}", fontsize=7)
            axis.set_xlabel("units, by clean images")
        maps = outcome.get("attention")
        for column, (key, words) in enumerate(
            (("others", "the other units"), ("lowest", "the lowest tenth")), 2
        ):
            axis = axes[row][column]
            axis.set_axis_off()
            if maps:
                axis.imshow(_picture(maps["image"]), interpolation="nearest")
                axis.imshow(maps[key], cmap="autumn_r", alpha=maps[key], interpolation="nearest")
                axis.set_title(f"attention of {words}", fontsize=7)
    return figure


def _picture(image: list[list[list[int]]]) -> list[list[list[float]]]:
    """[C][H][W] in 0..255 → [H][W][3] in 0..1, pale and without colour, so that what lies on it shows."""
    height, width = len(image[0]), len(image[0][0])
    grey = [[sum(c[y][x] for c in image) / len(image) / 255 for x in range(width)] for y in range(height)]
    return [[[0.4 + 0.6 * value] * 3 for value in row] for row in grey]


_DRAWN: Mapping[str, Callable[[Table, Standing], Any]] = {
    "penalties": penalties,
    "ratios": ratios,
    "regularisers": regularisers,
    "units": units,
}
