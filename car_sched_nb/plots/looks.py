"""Colours, symbols and words that the charts share.

A figure does not know whether it lies on white or on black: each colour here has a contrast of 3 to 1 or more with
both, and what differs in colour differs in its symbol too. The hues are those of Okabe and Ito (2008), as dark as that
needs, and those of the dashboard where it has one: failures red, what nobody served amber, what was left out grey.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from car_sched_nb.durations import duration_words
from car_sched_nb.frames.asked import several
from car_sched_nb.model import Status, from_us
from car_sched_nb.when import offset_change_s, offset_s, zone_info, zone_name

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.plots.chart import Array


class Look(NamedTuple):
    """How a state is drawn."""

    colour: str
    symbol: str


INK = "#797979"
"""Of text: the grey whose contrast with white and with JupyterLab's dark ground is the same, 4.3 to 1."""

GRID = "rgba(128,128,128,0.25)"
BLUE, GREEN, RED, AMBER, PURPLE, GREY = "#2283c4", "#009e73", "#d55e00", "#b37f00", "#b5588f", "#808080"

STATES = {
    Status.COMPLETED: Look(GREEN, "circle"),
    Status.FAILED: Look(RED, "x"),
    Status.TIMED_OUT: Look(PURPLE, "hourglass"),
    Status.CANCELLED: Look(GREY, "square"),
    Status.INTERRUPTED: Look(AMBER, "triangle-down"),
    Status.MISSED: Look(AMBER, "diamond-open"),
    Status.SKIPPED: Look(GREY, "circle-open"),
    Status.RUNNING: Look(BLUE, "triangle-right"),
    Status.WAITING: Look(BLUE, "square-open"),
}

MOST = 20_000
"""Runs in one chart; the newest are taken."""

ROWS = 60
"""Tasks that have a row of their own."""

TASKS = (
    *(Look(BLUE, "circle"), Look(AMBER, "diamond"), Look("#6d2ffe", "square"), Look("#a74832", "triangle-up")),
    *(Look(GREEN, "circle-open"), Look(PURPLE, "diamond-open"), Look("#705a82", "square-open")),
    Look("#049fba", "triangle-up-open"),
)
"""Of tasks in one field: as far apart as can be in protanopia and deuteranopia too, and from failures and grey."""

NOT_RUN = (Status.MISSED, Status.SKIPPED)
"""States of rows that stand for slots, `slots` of them, which nothing ran for."""

_ANSWER = 200
_LINE = 70
_FEW_DAYS_S = 4 * 86_400
_UNITS = (("ms", 0.001, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0))


def state_name(status: Status) -> str:
    """Return a state as people write it."""
    return str(status).replace("_", " ")


def pale(colour: str) -> str:
    """Return a colour of six digits so that what lies below can be seen."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def zone() -> str:
    """Return the name of this machine's zone."""
    return zone_name(None)


class Wall(NamedTuple):
    """The clock along an axis: what pandas takes for its zone, its name on the axis and after an instant."""

    zone: Any
    name: str
    short: str = ""


def wall_for(low_us: int, high_us: int) -> Wall:
    """Return this machine's clock; over few days in which it is put forward or back, as it ran when they began."""
    info = zone_info(zone())
    low_s, high_s = low_us // 1_000_000, high_us // 1_000_000
    offset = offset_s(info, low_s)
    if high_s - low_s > _FEW_DAYS_S or offset == offset_s(info, high_s):
        return Wall(zone(), zone())
    fixed = timezone(timedelta(seconds=offset))
    change = from_us(offset_change_s(info, low_s, high_s) * 1_000_000).astimezone(fixed)
    city = zone().rsplit("/", 1)[-1].replace("_", " ")
    written = f"{change:%z}"
    name = f"UTC{offset // 3600:+d}" if offset % 3600 == 0 else f"UTC{written[:3]}:{written[3:]}"
    return Wall(fixed, f"{name}, {city}'s time before {change:%d %b %H:%M}", f" {name}")


def local_ms(instants: pd.Series[Any], wall_zone: Any = None) -> Array:
    """Return instants as milliseconds of local time, or of another zone; not a number where there is none."""
    wall = instants.dt.tz_convert(wall_zone or zone()).dt.tz_localize(None)
    return wall.astype("datetime64[us]").to_numpy(dtype="datetime64[us]").astype("datetime64[ms]").astype("float64")


def wall_ms(us: int, wall_zone: tzinfo | str | None = None) -> float:
    """Return one instant in the same way."""
    given = wall_zone or zone()
    info = zone_info(given) if isinstance(given, str) else given
    wall = from_us(us).astimezone(info).replace(tzinfo=UTC)
    return (wall - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000


def us_of(values: pd.Series[Any]) -> Array:
    """Return durations in microseconds, not a number where there is none."""
    whole = values.to_numpy(dtype="timedelta64[us]")
    found = whole.astype("float64")
    found[whole != whole] = float("nan")  # noqa: PLR0124 - "not a time" alone differs from itself
    return found


def unit_for(us: float) -> tuple[str, float]:
    """Return the unit in which a length is read best, and its microseconds."""
    for name, seconds, below in _UNITS:
        if us < below * 1e6:
            return name, seconds * 1e6
    return "days", 86_400e6


def length(us: float) -> str:
    """Return a length in words; nothing for what is no number."""
    if us != us:  # noqa: PLR0124 - not a number
        return ""
    step = 1 if us < 1e6 else 10_000 if us < 1e7 else 100_000 if us < 6e7 else 1_000_000
    return duration_words(round(us / step) * step)


def short(text: str, most: int = 28) -> str:
    """Return a name with its middle left out where it is too long."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[-half:]}"


def said(text: Any) -> list[str]:
    """Return the beginning of an answer or an error as short lines."""
    if not isinstance(text, str):
        return []
    shown = " ".join(text[: 4 * _ANSWER].split())
    shown = shown if len(shown) <= _ANSWER else shown[: _ANSWER - 1] + "…"
    lines: list[str] = []
    while shown:
        end = shown.rfind(" ", 1, _LINE + 1) if len(shown) > _LINE else len(shown)
        end = end if end > 0 else _LINE
        lines.append(shown[:end])
        shown = shown[end:].strip()
    return lines


def counted(count: float, noun: str) -> str:
    """Return how many of something, in words."""
    return f"{count:,.0f} {noun}" + "s" * (round(count) != 1)


def ran(count: int, again: int, *, failed: int | None = None, not_run: int = 0) -> str:
    """Return in words how many runs there were, how many of them retries, and how many slots did not run."""
    words = [counted(count, "run")]
    words += [f"{again:,} of them {'a retry' if again == 1 else 'retries'}"] if again else []
    words += [] if failed is None else [f"{failed:,} failed"]
    words += [f"{counted(not_run, 'slot')} that did not run"] if not_run else []
    return ", ".join(words)


def period(shown: Array) -> str:
    """Return the days from the first to the last of some instants."""
    import numpy as np

    first, last = np.array([shown.min(), shown.max()]).astype("datetime64[ms]").astype("datetime64[us]").astype(object)
    if first.date() == last.date():
        return f"{first:%d %b %Y}"
    return f"{first:%d %b %Y} to {last:%d %b %Y}"


def about(task: Any) -> str:
    """Return whose chart it is."""
    if task is None:
        return "all tasks"
    names = several(task, "task")
    return short(", ".join(names), 60)


def padded(low: float, high: float) -> tuple[float, float]:
    """Return a time with some room on both sides, half a minute around an instant."""
    room = (high - low) * 0.02 or 30_000.0
    return low - room, high + room
