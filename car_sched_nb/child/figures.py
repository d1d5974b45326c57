"""Figures that a body leaves open are shown at its end, as under a cell."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from typing import Any


def show_open(show: Callable[..., None]) -> None:
    """Show the open figures of matplotlib, if the body has used it, and close them."""
    helpers: Any = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None:
        return
    for manager in helpers.Gcf.get_all_fig_managers():
        figure, picture = manager.canvas.figure, io.BytesIO()
        figure.savefig(picture, format="png", bbox_inches="tight")
        encoded, text = base64.b64encode(picture.getvalue()).decode(), repr(figure)
        show({"image/png": encoded, "text/plain": text}, text=text)
    helpers.Gcf.destroy_all()
