"""A chart as a picture of its own making, for where plotly is not installed: one SVG, without anything that moves."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from car_sched_nb.output import clean
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Array, Axis, Bars, Cells, Chart, Line, Panel, Points
from car_sched_nb.plots.scales import ticks

HINT = "pip install car-sched-nb[plots]"
"""What makes it a figure to zoom and hover over."""

_WIDTH = 960.0
_TOP, _FOOT, _GAP, _LEGEND = 62.0, 60.0, 34.0, 22.0
_LETTER, _WIDE = 6.6, 7.6
_HALF = 0.36
_TEXT = "font:12px system-ui,sans-serif;color:var(--jp-ui-font-color1,#797979);max-width:100%;height:auto"
_DASHES = {"solid": "", "dot": ' stroke-dasharray="2 3"', "dash": ' stroke-dasharray="7 4"'}
_SHAPES = {
    # In a square from -1 to 1.
    "circle": "M-1,0A1,1 0 1 1 1,0A1,1 0 1 1 -1,0Z",
    "square": "M-.85,-.85H.85V.85H-.85Z",
    "diamond": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "triangle-up": "M0,-1L1,.8H-1Z",
    "triangle-down": "M0,1L1,-.8H-1Z",
    "triangle-right": "M1,0L-.8,1V-1Z",
    "hourglass": "M-1,-1H1L-1,1H1Z",
    "x": "M-1,-.5L-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0Z",
    "tick": "M-.1,-1H.1V1H-.1Z",
}


class Still:
    """A picture of a chart; a notebook shows it with the command that installs what can be zoomed.

    `svg` is its text, for a file: `Path("runs.svg").write_text(picture.svg)`.
    """

    def __init__(self, chart: Chart) -> None:
        self.title = chart.title
        self.subtitle = chart.subtitle
        self.svg = svg(chart)

    def __repr__(self) -> str:
        return f"{self.title}: {self.subtitle} (a picture: {HINT} for one to zoom)"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        line = f'<p style="margin:2px 0;font-size:90%;opacity:.8">To zoom and hover: <code>{HINT}</code></p>'
        return f"<div>{self.svg}{line}</div>"


class _Frame(NamedTuple):
    """Where a panel lies, and how its values become places."""

    x: Axis
    y: Axis
    left: float
    right: float
    top: float
    bottom: float

    def across(self, value: Any) -> Any:
        return self.left + (value - self.x.low) / (self.x.high - self.x.low) * (self.right - self.left)

    def down(self, value: Any) -> Any:
        low, high = self.y.low, self.y.high
        if self.y.kind == "log":
            value, low, high = _log(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low)
        return (
            self.top + share * (self.bottom - self.top)
            if self.y.kind == "rows"
            else self.bottom - share * (self.bottom - self.top)
        )


def _log(value: Any) -> Any:
    import numpy as np

    return np.log10(value)


def svg(chart: Chart) -> str:
    """Return a chart as one SVG; its text takes the colour of JupyterLab's theme, or one that is read on both."""
    made = [
        _words(12, 22, chart.title, "font-size:17px;font-weight:500"),
        _words(12, 42, looks.short(chart.subtitle, 150)),
    ]
    if not chart.panels:
        return _document([*made[:1], _words(12, 46, chart.subtitle)], 64, chart)
    names = [text for panel in chart.panels for _, text in panel.y.ticks]
    left = 24 + max(40, *(len(name) * _WIDE for name in names)) if names else 70
    top = _TOP
    for panel in chart.panels:
        height = panel.height if not chart.joined else (_WIDTH - left - 16) / (chart.x.high - chart.x.low) * 7
        frame = _Frame(chart.x, panel.y, left, _WIDTH - 16, top, top + height)
        made += _panel(frame, panel, chart)
        top += height + _GAP
    top -= _GAP
    made += _below(_Frame(chart.x, chart.panels[-1].y, left, _WIDTH - 16, top, top))
    legend, rows = _legend(chart, left, top + _FOOT)
    return _document(made + legend, top + _FOOT + rows * _LEGEND, chart)


def _document(made: Sequence[str], height: float, chart: Chart) -> str:
    told = html.escape(f"{clean(chart.title)}. {clean(chart.subtitle)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" width="{_WIDTH:.0f}" '
        f'role="img" aria-label="{told}" style="{_TEXT}">{"".join(made)}</svg>'
    )


def _words(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    kept = html.escape(clean(text))
    styled = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" text-anchor="{anchor}"{styled}>{kept}</text>'


def _panel(frame: _Frame, panel: Panel, chart: Chart) -> list[str]:
    made = _grid(frame, chart)
    for mark in panel.marks:
        if isinstance(mark, Bars):
            made.append(_bars(frame, mark))
        elif isinstance(mark, Line):
            made += _line(frame, mark)
        elif isinstance(mark, Points):
            made += _points(frame, mark)
        else:
            made += _cells(frame, mark)
    for at, text in zip(panel.top.x, panel.top.texts, strict=True):
        made.append(_words(frame.across(at) + 2, frame.top - 3, text, "font-size:11px"))
    return made


def _grid(frame: _Frame, chart: Chart) -> list[str]:
    made: list[str] = []
    for value, text in ticks(frame.y, max(2, int((frame.bottom - frame.top) / 40))):
        y = frame.down(value)
        if not chart.joined:
            made.append(_stroke(f"M{frame.left:.1f},{y:.1f}H{frame.right:.1f}", looks.GRID, 1))
        made.append(_words(frame.left - 8, y + 4, text, anchor="end"))
    if not chart.joined:
        for value, _ in ticks(frame.x, 8):
            made.append(_stroke(f"M{frame.across(value):.1f},{frame.top:.1f}V{frame.bottom:.1f}", looks.GRID, 1))
    if frame.y.title:
        x, y = 14, (frame.top + frame.bottom) / 2
        turned = _words(0, 0, frame.y.title, anchor="middle")
        made.append(f'<g transform="translate({x},{y:.1f}) rotate(-90)">{turned}</g>')
    return made


def _below(frame: _Frame) -> list[str]:
    made = [_words(frame.across(value), frame.bottom + 17, text, anchor="middle") for value, text in ticks(frame.x, 8)]
    made.append(_words((frame.left + frame.right) / 2, frame.bottom + 36, frame.x.title, anchor="middle"))
    return made


def _fill(path: str, colour: str, more: str = "") -> str:
    return f'<path d="{path}" fill="{colour}"{more}/>'


def _stroke(path: str, colour: str, width: float, more: str = "") -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{more}/>'


def _bars(frame: _Frame, mark: Bars) -> str:
    """Return all bars as one path; its edge lets the shortest be seen."""
    left, right = frame.across(mark.start), frame.across(mark.start + (mark.y if mark.tall else mark.length))
    if mark.tall:
        top, bottom = frame.down(mark.length), [frame.bottom] * len(mark.length)
    else:
        top, bottom = frame.down(mark.y - _HALF), frame.down(mark.y + _HALF)
    corners = zip(left, right, top, bottom, strict=True)
    path = "".join(f"M{a:.1f},{d:.1f}V{c:.1f}H{max(a, b):.1f}V{d:.1f}Z" for a, b, c, d in corners if d > c)
    fill = looks.pale(mark.colour) if mark.pale else mark.colour
    return _fill(path, fill, "" if mark.tall else f' stroke="{mark.colour}"')


def _line(frame: _Frame, mark: Line) -> list[str]:
    path, drawing, last = "", False, (0.0, 0.0)
    ways: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for x, y in zip(frame.across(mark.x), frame.down(mark.y), strict=True):
        if math.isnan(x):
            drawing = False
            continue
        path += f"{'L' if drawing else 'M'}{x:.1f},{y:.1f}"
        if drawing:
            ways[-1] = (last, (x, y))
        else:
            ways.append((last, last))
        drawing, last = True, (x, y)
    heads = [_head(start, end, mark) for start, end in ways] if mark.arrows else []
    return [_stroke(path, mark.colour, mark.width, _DASHES[mark.dash]), *heads]


def _head(start: tuple[float, float], end: tuple[float, float], mark: Line) -> str:
    angle = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
    size = 5 + mark.width
    shape = f"M-9,0L{-9 - size:g},{size / 2:g}V{-size / 2:g}Z"
    return (
        f'<path d="{shape}" fill="{mark.colour}" transform="translate({end[0]:.1f},{end[1]:.1f}) rotate({angle:.0f})"/>'
    )


def _points(frame: _Frame, mark: Points) -> list[str]:
    if mark.symbol == "circle" and isinstance(mark.size, int | float) and not mark.labels and not mark.edge:
        return [_dots(frame, mark)]
    made = []
    sizes = [mark.size] * len(mark.x) if isinstance(mark.size, int | float) else mark.size
    for x, y, size in zip(frame.across(mark.x), frame.down(mark.y), sizes, strict=True):
        made.append(_symbol(x, y, mark, size))
    for place, label in enumerate(mark.labels):
        x, y = frame.across(mark.x[place]), frame.down(mark.y[place])
        made += [_words(x, y + 24 + 14 * row, line, anchor="middle") for row, line in enumerate(label.split("\n"))]
    return made


def _dots(frame: _Frame, mark: Points) -> str:
    """Return circles as the round ends of strokes without a length: a tenth of the text of so many paths."""
    path = "".join(f"M{x:.1f},{y:.1f}h0" for x, y in zip(frame.across(mark.x), frame.down(mark.y), strict=True))
    return _stroke(path, mark.colour, mark.size, ' stroke-linecap="round"')


def _symbol(x: float, y: float, mark: Points, size: float) -> str:
    shape = _SHAPES[mark.symbol.removesuffix("-open")]
    look = f'fill="{mark.colour}"'
    if mark.edge:
        look += f' stroke="{mark.edge}" stroke-width="{2 / size:.2f}"'
    if mark.symbol.endswith("-open"):
        look = f'fill="none" stroke="{mark.colour}" stroke-width="{4 / size:.2f}"'
    return f'<path d="{shape}" {look} transform="translate({x:.1f},{y:.1f}) scale({size / 2:.1f})"/>'


def _cells(frame: _Frame, mark: Cells) -> list[str]:
    top = max((value for row in mark.values for value in row if not math.isnan(value)), default=1) or 1
    wide = frame.across(1) - frame.across(0)
    tall = frame.down(1) - frame.down(0)
    made = []
    for row, values in enumerate(mark.values):
        for week, value in enumerate(values):
            if not math.isnan(value):
                x, y = frame.across(week - 0.5) + 1, frame.down(row - 0.5) + 1
                colour = _strength(mark.colour, value, top)
                made.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" height="{tall - 2:.1f}" fill="{colour}"/>'
                )
    return made


def _strength(colour: Sequence[int], value: float, top: float) -> str:
    """Return grey for none, then one hue that grows stronger."""
    if not value:
        return "rgba(128,128,128,0.16)"
    least = 1 / top
    share = (value / top - least) / (1 - least) if top > 1 else 1
    return f"rgba({colour[0]},{colour[1]},{colour[2]},{0.4 + 0.6 * share:.2f})"


def _legend(chart: Chart, left: float, y: float) -> tuple[list[str], int]:
    """Return what the colours and symbols mean, in as many lines as that takes."""
    made: list[str] = []
    x, rows = left, 1
    for panel in chart.panels:
        for mark in panel.marks:
            if not getattr(mark, "legend", True):
                continue
            wide = 34 + len(mark.name) * _LETTER + (130 if isinstance(mark, Cells) else 0)
            if x + wide > _WIDTH and x > left:
                x, rows = left, rows + 1
            middle = y + (rows - 1) * _LEGEND
            made += _entry(x, middle, mark)
            x += wide
    return made, rows


def _entry(x: float, y: float, mark: Bars | Points | Line | Cells) -> list[str]:
    if isinstance(mark, Cells):
        return _scale(x, y, mark)
    if isinstance(mark, Points):
        size = mark.size if isinstance(mark.size, int | float) else float(mark.size.max())
        sign = _symbol(x + 6, y, mark, min(size, 11))
    elif isinstance(mark, Line):
        sign = _stroke(f"M{x - 3:.1f},{y:.1f}h18", mark.colour, mark.width, _DASHES[mark.dash])
    else:
        sign = _fill(f"M{x:.1f},{y - 5:.1f}h12v10h-12Z", mark.colour)
    return [sign, _words(x + 19, y + 4, mark.name)]


def _scale(x: float, y: float, mark: Cells) -> list[str]:
    values: Array = mark.values
    top = max((value for row in values for value in row if not math.isnan(value)), default=1) or 1
    made = [_words(x, y + 4, f"{mark.name}: 0")]
    at = x + (len(mark.name) + 4) * _LETTER
    for step in (0.0, 0.01, 0.33, 0.66, 1.0):
        value = 0.0 if not step else max(1.0, step * top)
        made.append(_fill(f"M{at:.1f},{y - 6:.1f}h12v12h-12Z", _strength(mark.colour, value, top)))
        at += 14
    return [*made, _words(at + 4, y + 4, f"{top:,.0f}")]
