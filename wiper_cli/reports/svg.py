"""Drawings for the page, written by hand: no library, no script, the same bytes for the same numbers.

Horizontal places are percentages, so that text and dots keep their size on any width; only curves are
stretched. Colours are CSS classes of ``page.css``; shape or position always says the same as colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from wiper_cli.reports.plain import number, percent, plain
from wiper_cli.reports.story import Rate

#: Left edge, right edge of a plot in percent of the width; the labels of the axis stand left of it.
_LEFT, _RIGHT = 9.0, 100.0


def icon(outcome: str) -> Markup:
    """The sign of an outcome (key of ``story.OUTCOMES``), 48 × 48: ring, triangle, octagon, dashed ring, tick."""
    shapes = {
        "no_finding": '<circle cx="24" cy="24" r="17"/><path d="M16 24h16"/>',
        "suspicious": '<path d="M24 7 43 40H5Z"/><path d="M24 19v10M24 34.5v.5"/>',
        "malicious": '<path d="M16 6h16l10 10v16l-10 10H16L6 32V16Z"/><path d="m18 18 12 12M30 18 18 30"/>',
        "incomplete": '<circle cx="24" cy="24" r="17" stroke-dasharray="5 4.5"/>'
        '<path d="M19.500 20a4.500 4.500 0 1 1 6.500 4c-1.500.8-2 1.500-2 3.500M24 33v.5"/>',
    }
    shapes["purified"] = '<circle cx="24" cy="24" r="17"/><path d="m15 25 6.500 6.500L34 18"/>'
    shapes["rejected"] = shapes["suspicious"]
    shapes["measured"] = shapes["inspected"] = shapes["no_finding"]
    return Markup(f'<svg class="icon" viewBox="0 0 48 48" aria-hidden="true">{shapes[outcome]}</svg>')


def mark(severity: str) -> Markup:
    """The sign of a severity, 14 × 14: octagon, triangle, diamond, disc, ring."""
    shapes = {
        "critical": '<path d="M4 0h6l4 4v6l-4 4H4l-4-4V4Z"/>',
        "high": '<path d="M7 0 14 13H0Z"/>',
        "medium": '<path d="M7 0 14 7 7 14 0 7Z"/>',
        "low": '<circle cx="7" cy="7" r="5.500"/>',
        "info": '<circle class="ring" cx="7" cy="7" r="5"/>',
    }
    return Markup(f'<svg class="mark" viewBox="0 0 14 14" aria-hidden="true">{shapes[severity]}</svg>')


def slope(before: Rate | None, after: Rate | None, base: Rate | None = None) -> Markup:
    """0 to 100 % upwards, before on the left (ring), after on the right (disc), intervals as thin bars."""
    top, bottom = 14.0, 126.0

    def y(value: float) -> float:
        return bottom - (bottom - top) * value

    parts = [_rule(y(value), f"{100 * value:.0f}") for value in (0.0, 0.5, 1.0)]
    if base:
        parts.append(_dashes(y(base.value)))
    if before and after:
        ends = f'x1="26%" y1="{_n(y(before.value))}" x2="80%" y2="{_n(y(after.value))}"'
        parts.append(f'<line class="slope" {ends}/>')
    for x, rate, kind in ((26, before, "before"), (80, after, "after")):
        if not rate:
            continue
        if rate.low is not None and rate.high is not None:
            parts.append(
                f'<line class="range" x1="{x}%" x2="{x}%" y1="{_n(y(rate.high))}" y2="{_n(y(rate.low))}"/>'
            )
        parts.append(f'<circle class="{kind}" cx="{x}%" cy="{_n(y(rate.value))}" r="5.500"/>')
        parts.append(f'<text class="axis" x="{x}%" y="145" text-anchor="middle">{kind}</text>')
    said = [f"{name} {percent(rate.value)}" for name, rate in (("before", before), ("after", after)) if rate]
    return _drawing(150, ", ".join(said), parts)


def level(rate: Rate) -> Markup:
    """One share on a line from 0 to 100 %, its interval as a thick bar."""
    parts = ['<line class="track" x1="1%" x2="99%" y1="14" y2="14"/>']
    if rate.low is not None and rate.high is not None:
        ends = f'x1="{_n(1 + 98 * rate.low)}%" x2="{_n(1 + 98 * rate.high)}%"'
        parts.append(f'<line class="range" {ends} y1="14" y2="14"/>')
    parts.append(f'<circle class="after" cx="{_n(1 + 98 * rate.value)}%" cy="14" r="5.500"/>')
    parts += [
        f'<text class="axis" x="{x}%" y="36" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in ((0, "start", "0"), (50, "middle", "50"), (100, "end", "100"))
    ]
    return _drawing(40, percent(rate.value), parts)


def strip(
    values: Sequence[float | None], threshold: float | None, target: int | None, names: Sequence[str]
) -> Markup:
    """One stem a class in their order, the threshold as a dashed line, the target as a triangle."""
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    top, bottom = 22.0, 132.0
    low, high = min(0.0, *known), max(0.0, *known, threshold or 0.0)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / span

    def x(index: int) -> float:
        return _LEFT + 1 + (_RIGHT - _LEFT - 2) * (index + 0.5) / len(values)

    parts = [_rule(y(0.0), "0")]
    parts += [_rule(y(value), _short(value)) for value in (low, high) if abs(y(value) - y(0.0)) > 12]
    drawn = [
        (x(index), y(value)) for index, value in enumerate(values) if value is not None and index != target
    ]
    parts.append(_stretched(top, bottom, "stems", (f"M{_n(a)} {_n(b)}V{_n(y(0.0))}" for a, b in drawn)))
    parts.append(_stretched(top, bottom, "dots", (f"M{_n(a)} {_n(b)}h.001" for a, b in drawn)))
    if threshold is not None:
        parts.append(_dashes(y(threshold)))
        place = f'x="100%" y="{_n(y(threshold) - 5)}" text-anchor="end"'
        parts.append(f'<text class="note" {place}>threshold {number(threshold)}</text>')
    if target is not None and target < len(values) and values[target] is not None:
        parts.append(_flag(x(target), y(values[target] or 0.0), y(0.0), _name(names, target)))
    if len(values) <= 20:
        parts += [
            f'<text class="axis" x="{_n(x(index))}%" y="150" text-anchor="middle">{index}</text>'
            for index in range(len(values))
        ]
    else:
        parts.append(f'<text class="axis" x="{_LEFT}%" y="150">class 0</text>')
        parts.append(f'<text class="axis" x="100%" y="150" text-anchor="end">class {len(values) - 1}</text>')
    return _drawing(156, f"statistic of each of {len(values)} classes", parts)


def bars(
    values: Sequence[float | None],
    marked: Iterable[int] = (),
    order: Sequence[int] | None = None,
    said: str = "salience",
) -> Markup:
    """Every unit as a bar, greatest first or in ``order``; a tick below marks units in ``marked``. ``said``: what
    the values are, for those who cannot see them."""
    sorted_here = order is None
    order = ranked(values) if order is None else order
    if not order:
        return Markup("")
    top, bottom = 10.0, 150.0
    heights = [values[unit] or 0.0 for unit in order]
    low, high = min(0.0, *heights), max(0.0, *heights)
    span = (high - low) or 1.0
    count = len(order)
    width = 0.8 if count <= 300 else 1.0

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / span

    parts = [_rule(y(0.0), "0")]
    parts += [_rule(y(value), _short(value)) for value in (low, high) if abs(y(value) - y(0.0)) > 12]
    for kind, signed in (("up", 1), ("down", -1)):
        steps = (
            f"M{_n(place)} {_n(y(value))}h{width}V{_n(y(0.0))}h-{width}Z"
            for place, value in enumerate(heights)
            if value * signed > 0
        )
        parts.append(_plot(f"0 {_n(top)} {count} {_n(bottom - top)}", top, bottom, kind, steps))
    marked = set(marked)
    ticks = [f"M{_n(place + width / 2)} 0v8" for place, unit in enumerate(order) if unit in marked]
    if ticks:
        parts.append(_plot(f"0 0 {count} 8", 156, 164, "ticks", ticks))
    ends = (
        ("most salient", f"least, of {count:,} units")
        if sorted_here
        else ("highest on clean images", "lowest")
    )
    parts.append(f'<text class="axis" x="{_LEFT}%" y="180">{ends[0]}</text>')
    parts.append(f'<text class="axis" x="100%" y="180" text-anchor="end">{ends[1]}</text>')
    return _drawing(184, f"{said} of {count} units, {'sorted' if sorted_here else 'by clean images'}", parts)


def curves(
    series: Sequence[tuple[str, Sequence[float | None]]], low: float, high: float, share: bool
) -> Markup:
    """Up to six lines over the epochs, told apart by dashes and named in the legend below the drawing."""
    top, bottom = 12.0, 122.0
    span = (high - low) or 1.0
    write = percent if share else _short
    parts = [_rule(top, write(high)), _rule(bottom, write(low))]
    length = max((len(values) for _, values in series), default=0)

    def x(place: int) -> float:
        return _LEFT + 1 + (_RIGHT - _LEFT - 2) * (place / (length - 1) if length > 1 else 0.5)

    for index, (_, values) in enumerate(series[:6]):
        points = [
            f"{_n(x(place))} {_n(bottom - (bottom - top) * (value - low) / span)}"
            for place, value in enumerate(values)
            if value is not None
        ]
        if points:
            path = "M" + "L".join(points) + ("h.001" if len(points) == 1 else "")
            parts.append(_stretched(top, bottom, f"curve c{index}", [path]))
    parts.append(f'<text class="axis" x="{_LEFT}%" y="140">first epoch</text>')
    parts.append('<text class="axis" x="100%" y="140" text-anchor="end">last epoch</text>')
    return _drawing(144, ", ".join(name for name, _ in series), parts)


def chain(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """A path through a graph as boxes, row by row: round ends with weights, dashed what is asked, heavy where the rule
    is met."""
    columns, width, height = 6, 14.0, 30
    parts = []
    for i, step in enumerate(steps[:24]):
        x, y = 100 / columns * (i % columns) + 0.3, 8 + 46 * (i // columns)
        mark = step["mark"] if step.get("mark") in ("weighted", "condition", "join") else "plain"
        end = 15 if mark == "weighted" else 3
        parts.append(
            f'<rect class="box {mark}" x="{_n(x)}%" y="{y}" width="{width}%" height="{height}" rx="{end}">'
            f"<title>{escape(plain(step.get('place') or '', 120))}</title></rect>"
            f'<text class="note" x="{_n(x + width / 2)}%" y="{y + 20}" text-anchor="middle">'
            f"{escape(plain(step['operator'], 18))}</text>"
        )
        if i:
            at = f'x="{_n(x - 1.3)}%"' if i % columns else 'x="0%" dx="-6"'
            parts.append(f'<text class="axis" {at} y="{y + 20}" text-anchor="middle">→</text>')
    rows = -(-min(len(steps), 24) // columns)
    return _drawing(46 * rows, "a path from the image to the logits", parts)


def sample(index: int) -> Markup:
    """A short piece of curve ``index``, for the legend."""
    return Markup(
        '<svg class="sample" width="34" height="10" aria-hidden="true">'
        f'<path class="curve c{index}" d="M1 5h32"/></svg>'
    )


def ranked(values: Sequence[float | None]) -> list[int]:
    """Units by falling value; equal ones by index; what was not measured is left out."""
    return sorted(
        (unit for unit, value in enumerate(values) if value is not None),
        key=lambda unit: -(values[unit] or 0.0),
    )


def _name(names: Sequence[str], index: int) -> str:
    name = plain(names[index], 24) if index < len(names) else ""
    return name if name and name != str(index) else f"class {index}"


def _n(value: float) -> str:
    """A coordinate: two decimals, no trailing zeros."""
    return f"{round(value, 2) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"


def _short(value: float) -> str:
    """A label of an axis: two significant digits and a true minus sign."""
    written = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}".replace("e-0", "e-")
    return written.replace("-", "\N{MINUS SIGN}")


def _rule(y: float, text: str) -> str:
    """A hairline across the plot with its value at the left."""
    return (
        f'<line class="grid" x1="{_LEFT}%" x2="100%" y1="{_n(y)}" y2="{_n(y)}"/>'
        f'<text class="axis" x="{_LEFT - 1}%" y="{_n(y + 4)}" text-anchor="end">{escape(text)}</text>'
    )


def _dashes(y: float) -> str:
    """A dashed line across the plot: a threshold or a base rate."""
    return f'<line class="threshold" x1="{_LEFT}%" x2="100%" y1="{_n(y)}" y2="{_n(y)}"/>'


def _flag(x: float, y: float, zero: float, text: str) -> str:
    """A triangle on a stem with a name beside it, on the side where there is room."""
    side, shift = ("start", 10) if x < 60 else ("end", -10)
    return (
        f'<line class="flagstem" x1="{_n(x)}%" x2="{_n(x)}%" y1="{_n(y)}" y2="{_n(zero)}"/>'
        f'<svg x="{_n(x)}%" y="{_n(y)}" overflow="visible"><path class="flag" d="M0-7 7 5H-7Z"/>'
        f'<text class="flagname" x="{shift}" y="5" text-anchor="{side}">{escape(text)}</text></svg>'
    )


def _stretched(top: float, bottom: float, kind: str, steps: Iterable[str]) -> str:
    """A path whose x are percentages of the whole drawing and whose y are pixels."""
    return (
        f'<svg x="0" y="{_n(top)}" width="100%" height="{_n(bottom - top)}" overflow="visible" '
        f'viewBox="0 {_n(top)} 100 {_n(bottom - top)}" preserveAspectRatio="none">'
        f'<path class="{kind}" d="{"".join(steps)}"/></svg>'
    )


def _plot(box: str, top: float, bottom: float, kind: str, steps: Iterable[str]) -> str:
    """A path in the plot's own units, stretched between its left and right edge."""
    place = f'x="{_LEFT}%" y="{_n(top)}" width="{100 - _LEFT}%" height="{_n(bottom - top)}"'
    return (
        f'<svg {place} overflow="visible" '
        f'viewBox="{box}" preserveAspectRatio="none"><path class="{kind}" d="{"".join(steps)}"/></svg>'
    )


def _drawing(height: int, said: str, parts: Iterable[str]) -> Markup:
    """Everything inside is made of numbers and escaped text."""
    body = "".join(parts)
    return Markup(
        f'<svg class="drawing" role="img" aria-label="{escape(said)}" height="{height}">{body}</svg>'
    )
