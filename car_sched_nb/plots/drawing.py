"""Who draws a chart: plotly where it is installed, else this package itself."""

from __future__ import annotations

from typing import Any

from car_sched_nb.plots.chart import Chart


def drawn(chart: Chart) -> Any:
    """Return a chart as plotly's `Figure`, or as a `Still` where plotly is not installed."""
    try:
        import plotly  # noqa: F401 - whether it is there
    except ImportError:
        from car_sched_nb.plots.still import Still

        return Still(chart)
    from car_sched_nb.plots.figure import figure

    return figure(chart).with_picture(chart)
