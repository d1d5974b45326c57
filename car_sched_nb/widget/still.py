"""The dashboard where no kernel answers: a saved notebook, nbviewer, an exported page."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from car_sched_nb.widget.view import Row

if TYPE_CHECKING:
    from car_sched_nb.widget.view import View

_MOST = 200  # rows: a saved notebook stays small
_APART_S = 10.0
_CALM_S = 2.0
_COLUMNS = ("task", "status", "when", "last result")
_SYMBOLS = dict(
    zip(
        "running scheduled completed failed pending disabled cancelled timed_out interrupted missed skipped".split(),
        "▶◷✓✗○⏸■✗✗○○",
        strict=True,
    )
)
_CELL = "text-align:left;vertical-align:top;padding:2px 16px 2px 0"
_SMALL = "font-size:90%;opacity:.75;margin:2px 0"


class Still:
    """Tells when the table that a saved notebook keeps is to be replaced: not too often, and when it is calm."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shown = ""
        self._shown_s = self._calm_s = float("-inf")
        self._since_s: float | None = None
        """Since when it may say something old."""

    def note(self, now_s: float) -> None:
        """Rows have changed."""
        self._calm_s = now_s + _CALM_S
        if self._since_s is None:
            self._since_s = now_s

    def bundle_if_due(self, now_s: float) -> tuple[str, str] | None:
        """Return the table's (body, plain text) when it says something new and it is time to show it."""
        if self._since_s is None or now_s < self._shown_s + _APART_S:
            return None
        if now_s < min(self._calm_s, self._since_s + _APART_S):
            return None
        self._since_s, self._shown_s = None, now_s
        bundle = self.bundle()
        if bundle[1] == self._shown:
            return None
        self._shown = bundle[1]
        return bundle

    def bundle(self) -> tuple[str, str]:
        """Return the table's (body, plain text) as it is now."""
        rows = list(self._view.rows(_MOST))
        more = len(self._view) - len(rows)
        return table(rows, more), text(rows, more)


def cells(row: Row) -> tuple[str, str, str, str]:
    """Return a row as words; without clock times, so that a saved notebook does not change by itself."""
    last = row["last"]
    result = f"{_word(last['status'])}: {last['text']}".removesuffix(": ") if last else ""
    status = f"○ waits: {row['waits']}" if row["waits"] else _word(row["status"])
    return row["name"], status, f"{row['runner']} · {row['trigger']}", result


def _word(status: str) -> str:
    return f"{_SYMBOLS.get(status, '')} {status.replace('_', ' ')}".lstrip()


def table(rows: Iterable[Row], more: int = 0) -> str:
    """Return the rows as an HTML table; every text is escaped, every style is the element's own."""
    head = "".join(f'<th scope="col" style="{_CELL};font-weight:600">{name}</th>' for name in _COLUMNS)
    lines = [_line(cells(row)) for row in rows]
    if not lines:
        return f'<p style="{_SMALL}">no tasks yet</p>'
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rest = f'<p style="{_SMALL}">and {more:,} more</p>' if more else ""
    style = "border-collapse:collapse;font-size:13px"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}'


def _line(texts: tuple[str, ...]) -> str:
    """Return a row's cells; only a result is long enough to be broken."""
    styles = [f"{_CELL};white-space:nowrap"] * (len(texts) - 1) + [_CELL]
    return "".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell, style in zip(texts, styles, strict=True))


def text(rows: Iterable[Row], more: int = 0) -> str:
    """Return the rows as lines."""
    lines = ["  ".join(filter(None, cells(row))) for row in rows] or ["no tasks yet"]
    return "\n".join([*lines, *([f"and {more:,} more"] if more else [])])


def bundle(body: str, plain: str, suffix: str) -> dict[str, str]:
    """Return what a notebook shows; a live dashboard hides it by its class."""
    return {"text/html": f'<div class="car-still car-still-{suffix}">{body}</div>', "text/plain": plain}
