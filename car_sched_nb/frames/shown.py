"""A history that is read in a cell: few columns, local times, one line of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Hashable

_MOST = 60
_WIDTH = 70


class ReadableHistory(pd.DataFrame):
    """All columns of the history; a cell shows the ones that people read. What is made of it is a plain DataFrame."""

    def _repr_html_(self) -> str:
        return _readable(self)._repr_html_() or ""  # type: ignore[operator]

    def __repr__(self) -> str:
        return repr(_readable(self))


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(frame)
    begun = table["started_at"].fillna(table["scheduled_at"]).dt.tz_convert(_zone())
    said = table["error"].fillna(table["answer"]).fillna(table["reason"]).fillna("").astype(object)
    shown: dict[Hashable, Any] = {
        "task": table["task"],
        "status": table["status"].astype(object),
        "at": begun.dt.strftime("%a %d %b %H:%M:%S"),
        "late": [_length(one) for one in table["lateness"]],
        "took": [_length(one) for one in table["duration"]],
        "slots": table["slots"],
        "answer, or why not": [_line(one) for one in said],
    }
    return pd.DataFrame(shown, index=range(1, len(table) + 1))


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
