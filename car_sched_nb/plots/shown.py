"""A figure that brings its still picture along, for readers of a notebook who have no plotly. Needs plotly."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from car_sched_nb.plots.chart import Chart
from car_sched_nb.plots.still import svg

LARGEST = 500_000
"""Bytes of a picture that goes into a notebook beside the figure."""

_ALONE = ("plotly_mimetype", "jupyterlab", "nteract", "vscode")
"""The names of the renderer that shows what only a page with plotly can draw: nbconvert, nbviewer and GitHub cannot."""


class Figure(go.Figure):  # type: ignore[misc]
    """Plotly's figure; as long as it is not changed, its output holds the same chart as a picture too.

    Where `plotly.io.renderers.default` was set to another renderer, all is as that one does it.
    """

    _picture = ""
    _words = ""
    _made_as = 0

    def with_picture(self, chart: Chart) -> Figure:
        """Keep the picture of the chart that this figure shows, unless it is too large."""
        picture = svg(chart)
        if len(picture.encode()) <= LARGEST:
            self._picture, self._words, self._made_as = picture, f"{chart.title}: {chart.subtitle}", self._digest()
        return self

    def _digest(self) -> int:
        return hash(self.to_json(validate=False))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, validate: bool = True, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(include, exclude, validate, **kwargs)
        if self._picture and pio.renderers.default in _ALONE and self._made_as == self._digest():
            bundle |= {"image/svg+xml": self._picture, "text/plain": self._words}
        return bundle

    def _ipython_display_(self) -> None:
        if pio.renderers.render_on_display and pio.renderers.default in _ALONE:
            self.show()
        else:
            super()._ipython_display_()

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show it as plotly does, with its picture where plotly alone would be shown."""
        if args or kwargs or pio.renderers.default not in _ALONE:
            super().show(*args, **kwargs)
            return
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)  # type: ignore[no-untyped-call]
