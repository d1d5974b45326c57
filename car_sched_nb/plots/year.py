"""A year by day: how often a task ran, and on which days it failed."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from car_sched_nb.frames import history
from car_sched_nb.model import Status, from_us
from car_sched_nb.plots import looks
from car_sched_nb.plots.chart import Axis, Cells, Chart, Mark, Panel, Points, nothing
from car_sched_nb.plots.timeline import empty_words
from car_sched_nb.when import midnight_us, read_instant, zone_info

if TYPE_CHECKING:
    import pandas as pd

    from car_sched_nb.store.sqlite import SqliteStore

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FAILED = (Status.FAILED, Status.TIMED_OUT, Status.INTERRUPTED)
_ORDER = (Status.COMPLETED, *_FAILED, Status.CANCELLED, Status.RUNNING, Status.WAITING, Status.MISSED, Status.SKIPPED)
_RAN = (Status.COMPLETED, *_FAILED, Status.CANCELLED, Status.RUNNING)
_YEAR = 365
_MOST_DAYS = 3 * 366
_INK = (34, 131, 196)  # looks.BLUE


def calendar(store: SqliteStore, *, limit: int | None, now_us: int, since: Any, until: Any, **filters: Any) -> Chart:
    """Prepare the chart of the last 365 days, or of the period that is asked for, by local days."""
    title = f"Calendar of {looks.about(filters.get('task'))}"
    info = zone_info(looks.zone())
    today = from_us(now_us).astimezone(info).date()
    first: Any = since
    if since is None:
        begin = from_us(midnight_us(now_us)).astimezone(info) - timedelta(days=_YEAR - 1)
        first = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    columns = ["status", "scheduled_at", "slots", "attempt"]
    frame = history(store, since=first, until=until, limit=limit, columns=columns, now_us=now_us, **filters)
    if frame.empty:
        return nothing(title, empty_words({**filters, "since": since, "until": until}, limit))
    days = frame["scheduled_at"].dt.tz_convert(looks.zone()).dt.date
    begun = today - timedelta(days=_YEAR - 1) if since is None else _day(since, now_us, info)
    # Its end is not part of a period: until midnight is until the day before.
    ended = max(today, days.max()) if until is None else max(begun, _day(until, now_us - 1, info))
    begun = max(begun, ended - timedelta(days=_MOST_DAYS))
    ran = frame["status"].isin([str(one) for one in _RAN])
    again = int((ran & (frame["attempt"] > 1) & (days >= begun)).sum())
    return _chart(title, _counts(frame, days), again, begun, ended)


def _day(given: Any, now_us: int, info: ZoneInfo) -> date:
    """Return the local day of a bound that was asked for."""
    return from_us(read_instant(given, now_us=now_us).at_us).astimezone(info).date()


def _counts(frame: pd.DataFrame, days: Any) -> dict[date, dict[str, int]]:
    """Return how many runs of each state a day had; what did not run counts its slots."""
    slots = frame["slots"].where(frame["status"].isin([str(one) for one in looks.NOT_RUN]), 1)
    table = frame.assign(day=days, status=frame["status"].astype(object), slots=slots)
    sums = table.groupby(["day", "status"])["slots"].sum()
    found: dict[date, dict[str, int]] = {}
    for key, count in sums.items():
        day, status = cast("tuple[date, str]", key)
        found.setdefault(day, {})[status] = int(count)
    return found


def _chart(title: str, counts: dict[date, dict[str, int]], again: int, begun: date, ended: date) -> Chart:
    import numpy as np

    monday = begun - timedelta(days=begun.weekday())
    weeks = (ended - monday).days // 7 + 1
    values = np.full((7, weeks), np.nan)
    hover = [[""] * weeks for _ in _DAYS]
    bad: list[tuple[float, float, float, str]] = []
    missed: list[tuple[float, float, str]] = []
    total = failed = not_run = 0
    for offset in range((ended - begun).days + 1):
        day = begun + timedelta(days=offset)
        week, row = divmod((day - monday).days, 7)
        here = counts.get(day, {})
        ran, wrong = sum(here.get(state, 0) for state in _RAN), sum(here.get(state, 0) for state in _FAILED)
        total, failed = total + ran, failed + wrong
        not_run += sum(here.get(state, 0) for state in looks.NOT_RUN)
        values[row, week] = ran
        hover[row][week] = text = _hover(day, ran, here)
        if wrong:
            bad.append((week, row, 6 + 7 * wrong / ran, text))
        elif not ran and here.get(Status.MISSED):
            missed.append((week, row, text))
    marks: list[Mark] = [Cells("runs a day", values, _INK, hover)]
    if bad:
        x, y, sizes, texts = zip(*bad, strict=True)
        name = "with failures (larger: a larger part)"
        marks.append(
            Points(name, np.array(x), np.array(y), looks.RED, "x", texts, np.array(sizes), edge="#ffffff"),
        )
    if missed:
        across, down, told = zip(*missed, strict=True)
        marks.append(Points("missed, none ran", np.array(across), np.array(down), looks.AMBER, "diamond-open", told, 8))
    panel = Panel(Axis("rows", "", -0.5, 6.5, list(enumerate(_DAYS))), marks, 150)
    axis = Axis("number", f"week (days of {looks.zone()})", -0.5, weeks - 0.5, _months(monday, weeks))
    words = f"{looks.ran(total, again, failed=failed, not_run=not_run)}, {begun:%d %b %Y} to {ended:%d %b %Y}"
    return Chart(title, words, axis, [panel], joined=True)


def _months(monday: date, weeks: int) -> list[tuple[float, str]]:
    """Return the weeks in which a month begins; of many, each third."""
    found: list[tuple[float, str]] = []
    for week in range(weeks):
        first = monday + timedelta(days=7 * week)
        if week == 0 or (first - timedelta(days=1)).month != (first + timedelta(days=6)).month or first.day == 1:
            last = first + timedelta(days=6)
            found.append((float(week), f"{last:%b}" + (f" {last:%Y}" if last.month == 1 or not found else "")))
    if len(found) > 1 and found[1][0] - found[0][0] < 3:
        del found[0]  # its name would lie under the next one's
    return found[:: 1 + len(found) // 16]


def _hover(day: date, ran: int, here: dict[str, int]) -> str:
    lines = [f"{day:%a %d %b %Y}", looks.counted(ran, "run")]
    lines += [f"{here[state]:,} {looks.state_name(state)}" for state in _ORDER if here.get(state)]
    return "\n".join(lines)
