"""A history that is read in a cell: few columns, local times, one line of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Hashable

_MOST = 60
_WIDTH = 70
_NO_FORMULA = "mathjax_ignore tex2jax_ignore"  # prices in dollars stay as they are


class ReadableHistory(pd.DataFrame):
    """All columns of the history; a cell shows the ones that people read. What is made of it is a plain DataFrame."""

    def _repr_html_(self) -> str:
        said, table = _readable(self)
        if table.empty:
            return f"<p>{said}</p>"
        with pd.option_context("display.max_colwidth", None):  # each is short already
            # A price in dollars is no formula.
            drawn = str(
                table.to_html(max_rows=_MOST, border=0, justify="left", classes="mathjax_ignore tex2jax_ignore")
            )
        # A notebook sets texts to the right, and breaks short ones.
        for cell in ("th", "td"):
            drawn = drawn.replace(f"<{cell}>", f'<{cell} style="text-align: left; white-space: nowrap">')
        return f"<p>{said}</p>{drawn}" if said else drawn

    def __repr__(self) -> str:
        said, table = _readable(self)
        with pd.option_context("display.max_colwidth", None):
            return "\n".join(part for part in (said, "" if table.empty else table.to_string(justify="left")) if part)


def _readable(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return a line about what is not shown, and the newest rows with their numbers."""
    count = len(frame)
    if not count:
        return "no executions", pd.DataFrame()
    # Without ids, which the columns would be aligned by.
    table = pd.DataFrame(frame).iloc[-_MOST:].reset_index(drop=True)
    begun = table["started_at"].fillna(table["scheduled_at"]).dt.tz_convert(_zone())
    shown: dict[Hashable, Any] = {
        "task": table["task"],
        "status": table["status"].astype(object),
        "at": begun.dt.strftime("%a %d %b %H:%M:%S"),
        "late": [_length(one) for one in table["lateness"]],
        "took": [_length(one) for one in table["duration"]],
        "slots": table["slots"],
        "answer, or why not": [
            next((_line(one) for one in row if isinstance(one, str)), "")
            for row in zip(table["error"], table["answer"], table["reason"], strict=True)
        ],
    }
    made = pd.DataFrame(shown)
    made.index = pd.RangeIndex(count - len(made) + 1, count + 1)
    said = f"the newest {len(made)} of {count:,} executions; df = %car history has all" if count > len(made) else ""
    return said, made


def _zone() -> str:
    from car_sched_nb.when import zone_name

    return zone_name(None)


def _length(length: Any) -> str:
    if pd.isna(length):
        return ""
    seconds = length.total_seconds()
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if abs(seconds) < 120 else str(length.round("s")).replace("0 days ", "")


def _line(text: str) -> str:
    line = next((one.strip() for one in str(text).splitlines() if one.strip()), "")
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
