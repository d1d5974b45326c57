"""A chart as plotly's figure: few traces however many runs, and a template, so that it can be changed as any figure."""

from __future__ import annotations

from typing import Any

from car_sched_nb.output import clean
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Array, Axis, Bars, Cells, Chart, Line, Mark, Panel, Points

DRAWN_AS_BARS = 2_500
"""Up to so many bars are elements of their own; more of a state are drawn as one path, which stays fluent."""

_GAP = 70
_HEAD = 84
_FOOT = 56
_HALF = 0.36
_SYMBOLS = {"tick": "line-ns"}


def figure(chart: Chart) -> Any:
    """Return the figure: transparent, as wide as its cell."""
    from car_sched_nb.plots.shown import Figure

    made = Figure(layout={"template": _template(), "title": _title(chart)})
    if not chart.panels:
        blank = {"visible": False, "fixedrange": True}
        words = {"text": plain(chart.subtitle), "showarrow": False, "font": {"size": 15}}
        words |= {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        return made.update_layout(title_subtitle_text=None, height=220, xaxis=blank, yaxis=blank, annotations=[words])
    heights = [panel.height for panel in chart.panels]
    full = sum(heights) + _GAP // 2 * (len(heights) - 1)
    made.update_layout(height=full + _HEAD + _FOOT)
    top = float(full)
    for number, panel in enumerate(chart.panels, 1):
        which = "" if number == 1 else str(number)
        domain = [max(0.0, (top - panel.height) / full), top / full]
        top -= panel.height + _GAP // 2
        made.update_layout({f"yaxis{which}": {**_axis(panel.y), "domain": domain, "anchor": "x"}})
        for mark in panel.marks:
            _draw(made, mark, f"y{which}", chart)
        _words(made, panel, f"y{which} domain")
    last = "" if len(heights) == 1 else str(len(heights))
    made.update_layout(xaxis={**_axis(chart.x), "anchor": f"y{last}"})
    if chart.joined:
        below = {"orientation": "h", "x": 0, "y": -62 / full, "yanchor": "top"}
        made.update_layout(yaxis={"showgrid": False}, xaxis={"showgrid": False}, legend=below, height=full + 170)
        made.update_layout(margin={"b": 86})
    return made


def plain(text: str) -> str:
    """Return a text as plotly shows it: it would take tags for its own, and dollars for formulas."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")
    return text.replace("\n", "<br>")


def _template() -> Any:
    import plotly.graph_objects as go

    axis = {
        "gridcolor": looks.GRID,
        "linecolor": looks.GRID,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"size": 12}, "standoff": 8},
    }
    layout = {
        "font": {"color": looks.INK, "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#2b2b2b", "bordercolor": "#808080", "font": {"color": "#ffffff"}},
        "barmode": "overlay",
        "bargap": 0,
        "showlegend": True,
        "legend": {"itemsizing": "trace", "tracegroupgap": 2, "bgcolor": "rgba(0,0,0,0)"},
        "margin": {"l": 60, "r": 20, "t": _HEAD, "b": _FOOT},
        "xaxis": axis,
        "yaxis": axis,
    }
    return go.layout.Template(layout=layout)


def _title(chart: Chart) -> dict[str, Any]:
    return {
        "text": plain(chart.title),
        "font": {"size": 17},
        "subtitle": {"text": plain(chart.subtitle), "font": {"size": 12.5, "color": looks.INK}},
        "x": 0.01,
        "xanchor": "left",
        "y": 1,
        "yanchor": "top",
        "yref": "container",
        "pad": {"t": 16},
    }


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {"title": {"text": plain(axis.title)}, "range": [axis.low, axis.high]}
    if axis.kind == "time":
        made |= {"type": "date", "range": [str(one) for one in _instants([axis.low, axis.high])]}
    elif axis.kind == "log":
        from math import log10

        made |= {"type": "log", "range": [log10(axis.low), log10(axis.high)], "dtick": 1}
    elif axis.kind == "rows":
        made |= {"range": [axis.high, axis.low], "fixedrange": True}
    elif axis.kind == "none":
        made |= {"showgrid": False, "showticklabels": False}
    if axis.ticks:
        made |= {"tickvals": [at for at, _ in axis.ticks], "ticktext": [plain(text) for _, text in axis.ticks]}
    return made


def _instants(ms: Any) -> Array:
    import numpy as np

    return np.asarray(ms, "float64").astype("datetime64[ms]")


def _across(values: Array, chart: Chart) -> Array:
    return _instants(values) if chart.x.kind == "time" else values


def _draw(made: Any, mark: Mark, yaxis: str, chart: Chart) -> None:
    common = {"name": plain(mark.name), "legendgroup": mark.name, "yaxis": yaxis}
    if isinstance(mark, Cells):
        made.add_heatmap(**_cells(mark), name=common["name"], yaxis=yaxis)
    elif isinstance(mark, Line):
        made.add_scatter(**_line(mark, chart), **common, showlegend=mark.legend)
    elif isinstance(mark, Points):
        made.add_scatter(**_points(mark, chart), **common, showlegend=mark.legend)
    elif mark.tall:
        bars = {"x": _across(mark.start, chart), "y": mark.length, "width": mark.y, "offset": 0}
        made.add_bar(**bars, **_told(mark), **common, marker={"color": mark.colour}, showlegend=mark.legend)
    else:
        _lying(made, mark, common)


def _told(mark: Bars | Points) -> dict[str, Any]:
    return {"hovertext": [plain(text) for text in mark.hover], "hoverinfo": "text"}


def _lying(made: Any, mark: Bars, common: dict[str, Any]) -> None:
    """Draw bars; those shorter than a pixel can be seen by their edge, and are found by the points below them."""
    told = _told(mark)
    edge = {"width": 1, "color": mark.colour}
    fill = looks.pale(mark.colour) if mark.pale else mark.colour
    if len(mark.y) <= DRAWN_AS_BARS:
        made.add_bar(
            **common,
            **told,
            orientation="h",
            base=_instants(mark.start),
            x=mark.length.clip(min=1),
            y=mark.y,
            width=2 * _HALF,
            marker={"color": fill, "line": edge},
            showlegend=mark.legend,
        )
    else:
        made.add_shape(
            type="path",
            path=_path(mark),
            fillcolor=fill,
            line=edge,
            layer="below",
            xref="x",
            yref=common["yaxis"],
            name=common["name"],
            legendgroup=common["legendgroup"],
            showlegend=mark.legend,  # a click on the legend hides no other shape
        )
    points = {"x": _instants(mark.start + mark.length / 2), "y": mark.y, "mode": "none", "hoveron": "points"}
    made.add_scatter(**common, **told, **points, showlegend=False)


def _path(mark: Bars) -> str:
    low, high = mark.y - _HALF, mark.y + _HALF
    end = mark.start + mark.length.clip(min=1)
    corners = zip(mark.start, low, high, end, strict=True)
    return "".join(f"M{a:.0f},{b:g}V{c:g}H{d:.0f}V{b:g}Z" for a, b, c, d in corners)


def _points(mark: Points, chart: Chart) -> dict[str, Any]:
    symbol = _SYMBOLS.get(mark.symbol, mark.symbol)
    line: dict[str, Any] = {"width": 1, "color": mark.edge} if mark.edge else {"width": 0}
    if symbol.endswith("-open") or mark.symbol == "tick":
        line = {"width": 2, "color": mark.colour}
    marker = {"symbol": symbol, "size": mark.size, "color": mark.colour, "line": line, "opacity": 1}
    made = {"x": _across(mark.x, chart), "y": mark.y, "mode": "markers", "marker": marker, **_told(mark)}
    if mark.labels:
        made |= {"mode": "markers+text", "text": [plain(text) for text in mark.labels], "cliponaxis": False}
        made["textposition"] = "bottom center"
    return made


def _line(mark: Line, chart: Chart) -> dict[str, Any]:
    line = {"color": mark.colour, "width": mark.width, "dash": mark.dash}
    made = {"x": _across(mark.x, chart), "y": mark.y, "mode": "lines", "line": line, "hoverinfo": "skip"}
    if mark.words:
        made |= {"hoverinfo": "text", "text": plain(f"{mark.name}\n{mark.words}")}
    if mark.arrows:
        size = 9 + 2 * mark.width
        sizes = [size if last else 0 for last in [*(after != after for after in mark.x[1:]), False]]  # noqa: PLR0124
        marker: dict[str, Any] = {
            "symbol": "arrow",
            "angleref": "previous",
            "size": sizes,
            "standoff": [9 if size else 0 for size in sizes],
            "color": mark.colour,
        }
        made |= {"mode": "lines+markers", "marker": {**marker, "opacity": 1, "line": {"width": 0}}}
    return made


def _cells(mark: Cells) -> dict[str, Any]:
    from math import isnan

    red, green, blue = mark.colour
    top = float(max((value for row in mark.values for value in row if not isnan(value)), default=1)) or 1.0
    least = 1 / top
    return {
        "z": mark.values,
        "zmin": 0,
        "zmax": top,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": [[plain(text) for text in row] for row in mark.hover],
        "hoverinfo": "text",
        # Grey for none, then one hue that grows stronger: more is farther from the ground on white and on black.
        "colorscale": [
            [0, "rgba(128,128,128,0.16)"],
            [min(0.999, least * 0.99), "rgba(128,128,128,0.16)"],
            [min(0.9995, least), f"rgba({red},{green},{blue},0.4)"],
            [1, f"rgba({red},{green},{blue},1)"],
        ],
        "showscale": top > 1,
        "colorbar": {
            "title": {"text": plain(mark.name), "side": "right", "font": {"size": 12}},
            "thickness": 10,
            "len": 1,
            "outlinewidth": 0,
            "nticks": 4,
            "tick0": 1,
            "tickformat": ",d",
        },
    }


def _words(made: Any, panel: Panel, yref: str) -> None:
    for at, text in zip(panel.top.x, panel.top.texts, strict=True):
        made.add_annotation(
            x=str(_instants(at)),
            y=1,
            xref="x",
            yref=yref,
            text=plain(text),
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            font={"size": 11},
        )
