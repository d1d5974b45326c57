"""The dashboard where no kernel answers: a saved notebook, nbviewer, an exported page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from car_sched_nb.widget.view import Row

_MOST = 200  # rows: a saved notebook stays small
_COLUMNS = ("task", "status", "when", "last result")


def cells(row: Row) -> tuple[str, str, str, str]:
    """Return a row as words; without clock times, so that a saved notebook does not change by itself."""
    last = row["last"]
    result = f"{last['status'].replace('_', ' ')}: {last['text']}".removesuffix(": ") if last else ""
    status = f"waits: {row['waits']}" if row["waits"] else row["status"]
    return row["name"], status, f"{row['runner']} · {row['trigger']}", result


def table(rows: Iterable[Row]) -> str:
    """Return the rows as an HTML table; every text is escaped."""
    rows = list(rows)
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells(row)) + "</tr>"
        for row in rows[:_MOST]
    )
    more = f"<p>and {len(rows) - _MOST} more</p>" if len(rows) > _MOST else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def text(rows: Iterable[Row]) -> str:
    """Return the rows as lines."""
    return "\n".join("  ".join(cells(row)) for row in rows) or "no tasks yet"
