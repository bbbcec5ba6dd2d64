"""Charts as SVG text: no library, the same bytes for the same numbers, readable on light and dark ground.

Each chart carries its own style, so that it looks the same inside the page and as a file of its own.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 62, 16, 12, 42
ROW, LABEL_WIDTH, VALUE_WIDTH = 34, 230, 170
MOST_TICKS = 6
COLORS = 7

STYLE = """<style>
.chart { font: 13px system-ui, sans-serif; --ink: #1c2330; --soft: #5b6472; --grid: #dfe3e9;
  --c0: #2f6fde; --c1: #d9622b; --c2: #8a8f98; --c3: #2c9a5b;
  --c4: #8b4fc9; --c5: #a8851a; --c6: #15919b; }
@media (prefers-color-scheme: dark) { .chart { --ink: #e8ebf0; --soft: #a2abb8; --grid: #343a44;
  --c0: #7aa7ff; --c1: #ff9a66; --c2: #9aa1ac; --c3: #63cf90;
  --c4: #c39bf0; --c5: #dcbd5a; --c6: #5fcfd8; } }
.chart text { fill: var(--ink); } .chart .soft { fill: var(--soft); } .chart .grid { stroke: var(--grid); }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .reference { stroke-dasharray: 6 5; stroke-width: 1.5; }
</style>"""


@dataclass(frozen=True)
class Line:
    """One named curve, and where it has intervals, each as (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Fit:
    """One named curve and the measured points that it was fitted to."""

    name: str
    curve: Sequence[tuple[float, float]]
    dots: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One named figure with its interval."""

    name: str
    value: float
    low: float
    high: float


def line_chart(
    title: str, x_name: str, y_name: str, lines: Sequence[Line], references: Sequence[tuple[str, float]] = ()
) -> str:
    """Curves over a common x, with horizontal dashed lines at the `references`; empty curves are left out."""
    lines = [line for line in lines if line.points]
    values = [y for line in lines for _, y in line.points] + [value for _, value in references]
    values += [end for line in lines for _, low, high in line.spread for end in (low, high)]
    places = [x for line in lines for x, _ in line.points]
    height = 300
    to_x = _scale(min(places), max(places), LEFT, WIDTH - RIGHT)
    to_y = _scale(min(values), max(values), height - BOTTOM, TOP + 8)
    parts = []
    for tick in ticks(min(values), max(values)):
        y = to_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, short(tick), "end", soft=True))
    for tick in ticks(min(places), max(places)):
        parts.append(_text(to_x(tick), height - BOTTOM + 18, short(tick), "middle", soft=True))
    parts.append(_text(WIDTH - RIGHT, height - 6, x_name, "end", soft=True))
    parts.append(_text(LEFT, height - 6, y_name, "start", soft=True))
    for number, (name, value) in enumerate(references):
        color, y = _color(len(lines) + number), to_y(value)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="reference" stroke="{color}" {ends}><title>{_escape(name)}</title></line>')
    for number, line in enumerate(lines):
        way = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line" stroke="{_color(number)}" points="{way}"/>')
        for x, low, high in line.spread:  # side by side, that none hides another
            place = to_x(x) + 5 * (number - (len(lines) - 1) / 2)
            ends = f'x1="{place:.1f}" x2="{place:.1f}" y1="{to_y(low):.1f}" y2="{to_y(high):.1f}"'
            parts.append(f'<line stroke="{_color(number)}" stroke-width="2" stroke-opacity=".55" {ends}/>')
        x, y = line.points[-1]
        parts.append(f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3.5" fill="{_color(number)}"/>')
    named = [(line.name, line.points[-1][1]) for line in lines] + list(references)
    return _svg(title, height + 22 * len(named), [*parts, *_legend(named, len(lines), height)])


def fit_chart(title: str, x_name: str, y_name: str, fits: Sequence[Fit]) -> str:
    """Curves over a common x on a logarithmic axis, each with the dots that it was fitted to."""
    points = [point for fit in fits for point in (*fit.curve, *fit.dots)]
    low, high, values = min(x for x, _ in points), max(x for x, _ in points), [y for _, y in points]
    height = 320
    to_place = _scale(math.log(low), math.log(high), LEFT + 8, WIDTH - RIGHT - 8)
    to_y = _scale(min(values), max(values), height - BOTTOM - 8, TOP + 8)
    parts = []
    for tick in ticks(min(values), max(values)):
        y = to_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, short(tick), "end", soft=True))
    for tick in log_ticks(low, high):
        parts.append(_text(to_place(math.log(tick)), height - BOTTOM + 18, quantity(tick), "middle", soft=True))
    parts.append(_text(WIDTH - RIGHT, height - 6, x_name, "end", soft=True))
    parts.append(_text(LEFT, height - 6, y_name, "start", soft=True))
    for number, fit in enumerate(fits):
        way = " ".join(f"{to_place(math.log(x)):.1f},{to_y(y):.1f}" for x, y in fit.curve)
        parts.append(f'<polyline class="line" stroke="{_color(number)}" points="{way}"/>')
        for x, y in fit.dots:
            place = f'cx="{to_place(math.log(x)):.1f}" cy="{to_y(y):.1f}"'
            parts.append(f'<circle {place} r="4" fill="{_color(number)}"><title>{short(y)}</title></circle>')
        y = height + 22 * number + 14
        ends = f'x1="{LEFT}" x2="{LEFT + 26}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"'
        parts.append(f'<line stroke-width="3" stroke="{_color(number)}" {ends}/>')
        parts.append(_text(LEFT + 34, y, fit.name, "start"))
    return _svg(title, height + 22 * len(fits), parts)


def interval_chart(title: str, bars: Sequence[Bar]) -> str:
    """One row per figure: a dot at its value on the line of its interval. The first is set off by its colour."""
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    bottom = TOP + ROW * len(bars)
    to_x = _scale(low, high, LABEL_WIDTH + 12, WIDTH - VALUE_WIDTH - 12)
    parts = []
    for tick in ticks(low, high):
        x = to_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 18, short(tick), "middle", soft=True))
    for number, bar in enumerate(bars):
        y, color = TOP + ROW * (number + 0.5), _color(0 if number == 0 else 2)
        parts.append(_text(LABEL_WIDTH, y + 4, bar.name, "end"))
        ends = f'x1="{to_x(bar.low):.1f}" x2="{to_x(bar.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line stroke="{color}" stroke-width="5" stroke-opacity=".45" stroke-linecap="round" {ends}/>')
        parts.append(f'<circle cx="{to_x(bar.value):.1f}" cy="{y:.1f}" r="5.5" fill="{color}"/>')
        figure = f"{bar.value:.3f} ({bar.low:.3f} to {bar.high:.3f})"
        parts.append(_text(WIDTH - VALUE_WIDTH + 4, y + 4, figure, "start"))
    return _svg(title, bottom + 30, parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, at most `MOST_TICKS` + 1; `low` alone where the two are as good as equal."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1e-3):
        return [low]
    unit = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    step = next(factor * unit for factor in (1, 2, 5, 10, 20) if span / (factor * unit) <= MOST_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`, or of these the powers alone if they are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) <= 2 * MOST_TICKS:
            break
    return found if len(found) > 1 else [low, high]


def quantity(value: float) -> str:
    """A large number in three digits and k, M, G or T: 12.3M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size or unit != "T" else f"{value:.3g}"
    return f"{value:.3g}"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps [low, high] to [start, end], and a span of nothing to the middle."""

    def place(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return start + share * (end - start)

    return place


def _legend(named: Sequence[tuple[str, float]], lines: int, top: float) -> list[str]:
    parts = []
    for number, (name, value) in enumerate(named):
        y = top + 22 * number + 14
        style = 'class="reference"' if number >= lines else 'stroke-width="3"'
        ends = f'x1="{LEFT}" x2="{LEFT + 26}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"'
        parts.append(f'<line {style} stroke="{_color(number)}" {ends}/>')
        parts.append(_text(LEFT + 34, y, f"{name}: {value:.4g}" + (" at the end" if number < lines else ""), "start"))
    return parts


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
    return "\n".join([opening, f"<title>{_escape(title)}</title>", STYLE, *parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str, *, soft: bool = False) -> str:
    kind = ' class="soft"' if soft else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{_escape(text)}</text>'


def _color(number: int) -> str:
    return f"var(--c{number % COLORS})"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
