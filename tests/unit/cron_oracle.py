"""What cron plans, found by looking at every minute of a period: plain, slow, and apart from `car_sched_nb.cron`.

The rule:

1. A time on the wall matches when its second, minute, hour and month are among those of the expression, and its day is.
   The day has two fields: when either starts with a star both have to match, otherwise one of them is enough.
2. An expression of which the second, minute or hour starts with a star is a *wildcard*. It fires at each instant at
   which the wall shows a matching time: never for a time that the wall leaves out, twice for one that it shows twice.
3. Any other is at *fixed times*, and each counts once. A time that the wall shows twice fires at the first; all times
   that one jump of the wall leaves out fire together, at the first instant after it.

With five fields this is cron(8) of Debian, "Notes", which knows no seconds. Debian takes a jump of three hours and more
for a correction of the clock; here every jump is alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.int64]
Mask = NDArray[np.bool_]

DAY_S = 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_S, END_S = (int((datetime(year, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) for year in (2000, 2038))
# Since 1970 no zone has changed twice within 6.9 days (tzdata 2026f; the shortest are Brazil's of October 2000).
LOOK_S = 6 * DAY_S

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * SUN",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 JAN *",
    "@annually": "0 0 1 JAN *",
}
MONTHS = ("", *"JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split())
WEEKDAYS = tuple("SUN MON TUE WED THU FRI SAT".split())


class Wall:
    """Wall seconds taken apart into the fields that an expression speaks of."""

    def __init__(self, shown: Seconds) -> None:
        day, clock = np.divmod(shown, DAY_S)
        self.second, self.minute, self.hour = clock % 60, clock // 60 % 60, clock // 3600
        # The calendar is worked out once a day; `day` leads from a second to it.
        days, self.day = np.unique(day, return_inverse=True)
        months = days.astype("datetime64[D]").astype("datetime64[M]")
        first, following = (m.astype("datetime64[D]").astype(np.int64) for m in (months, months + 1))
        self.month = months.astype(np.int64) % 12 + 1
        self.date, self.last_date = days - first + 1, following - first
        self.weekday = (days + 4) % 7  # 1970-01-01 was a Thursday; 0 is Sunday
        last_weekday = (following - 1 + 4) % 7
        self.last_working_date = self.last_date - np.select([last_weekday == 0, last_weekday == 6], [2, 1], 0)


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """An expression as the oracle reads it: which values of each field are in."""

    second: Mask
    minute: Mask
    hour: Mask
    date: Mask
    month: Mask
    weekday: Mask
    last_dates: frozenset[str]
    special_weekdays: tuple[tuple[int, str], ...]
    needs_both_days: bool
    is_wildcard: bool

    def on_days(self, wall: Wall) -> Mask:
        """Tell which days of a wall match."""
        date = self.date[wall.date]
        if "L" in self.last_dates:
            date |= wall.date == wall.last_date
        if "LW" in self.last_dates:
            date |= wall.date == wall.last_working_date
        weekday = self.weekday[wall.weekday]
        for number, which in self.special_weekdays:
            right = wall.date + 7 > wall.last_date if which == "L" else (wall.date + 6) // 7 == int(which)
            weekday |= (wall.weekday == number) & right
        matching: Mask = self.month[wall.month] & (date & weekday if self.needs_both_days else date | weekday)
        return matching

    def on(self, wall: Wall) -> Mask:
        """Tell which seconds of a wall match."""
        matching: Mask = self.hour[wall.hour] & self.minute[wall.minute] & self.second[wall.second]
        return matching & self.on_days(wall)[wall.day]


def parse(text: str) -> Expression:
    """Read a good expression; what a bad one does here is of no interest."""
    fields = MACROS.get(text.lower(), text).upper().split()
    second, minute, hour, date, month, weekday = ["0"] * (6 - len(fields)) + fields
    weekdays = weekday.split(",")
    special = [term.split("#") if "#" in term else (term[:-1], "L") for term in weekdays if "#" in term or "L" in term]
    week = _mask([term for term in weekdays if "#" not in term and "L" not in term], 0, 7, WEEKDAYS)
    week[0] |= week[7]
    return Expression(
        second=_mask(second.split(","), 0, 59),
        minute=_mask(minute.split(","), 0, 59),
        hour=_mask(hour.split(","), 0, 23),
        date=_mask([term for term in date.split(",") if "L" not in term], 1, 31),
        month=_mask(month.split(","), 1, 12, MONTHS),
        weekday=week,
        last_dates=frozenset(term for term in date.split(",") if "L" in term),
        special_weekdays=tuple((_value(day, WEEKDAYS) % 7, which) for day, which in special),
        needs_both_days=date.startswith("*") or weekday.startswith("*"),
        is_wildcard=any(field.startswith("*") for field in (second, minute, hour)),
    )


def _mask(terms: list[str], low: int, high: int, names: tuple[str, ...] = ()) -> Mask:
    mask = np.zeros(high + 1, bool)
    for term in terms:
        span, _, step = term.partition("/")
        first, _, last = span.partition("-")
        start = low if first == "*" else _value(first, names)
        # 5/15 goes on to the end, 5 alone does not.
        stop = high if first == "*" or (step and not last) else _value(last or first, names)
        mask[start : stop + 1 : int(step or 1)] = True
    return mask


def _value(word: str, names: tuple[str, ...]) -> int:
    return names.index(word) if word in names else int(word)


@cache
def changes(zone: str) -> tuple[Seconds, Seconds]:
    """Return when the offset of a zone changes from 2000 to 2037, and the offsets: one more than there are changes."""
    info = ZoneInfo(zone)

    def offset(utc_s: int) -> int:
        return round(((EPOCH + timedelta(seconds=utc_s)).astimezone(info).utcoffset() or timedelta()).total_seconds())

    at, offsets = [], [offset(FIRST_S)]
    for low in range(FIRST_S, END_S, LOOK_S):
        before, high = low, low + LOOK_S
        if offset(high) == offsets[-1]:
            continue
        while high - before > 1:
            middle = (before + high) // 2
            before, high = (middle, high) if offset(middle) == offsets[-1] else (before, middle)
        at.append(high)
        offsets.append(offset(high))
    return np.array(at, np.int64), np.array(offsets, np.int64)


def distinct_zones() -> list[str]:
    """Return one name of all that have the same offsets from 2000 to 2037."""
    zones = {b"|".join(part.tobytes() for part in changes(name)): name for name in sorted(available_timezones())}
    return sorted(zones.values())


class Scan:
    """Every minute (or second) of a period: the instant, what the wall shows, and what it had not shown before.

    Parameters
    ----------
    zone
        An IANA name.
    low_s, high_s
        The period in UTC seconds, without its end; from 2000 to 2037.
    step_s
        60, or 1 for expressions with seconds.
    """

    def __init__(self, zone: str, low_s: int, high_s: int, step_s: int = 60) -> None:
        at, offsets = changes(zone)
        # What the wall showed in the days before tells which times are shown again.
        self.utc: Seconds = np.arange(low_s - 2 * DAY_S, high_s, step_s)
        shown = self.utc + offsets[np.searchsorted(at, self.utc, side="right")]
        assert not (shown % step_s).any()
        furthest = np.maximum.accumulate(shown)
        past = np.concatenate([shown[:1] - step_s, furthest[:-1]])
        self.wall = Wall(shown)
        self.is_new = shown > past
        self.jumps = [
            (int(i), Wall(np.arange(past[i] + step_s, shown[i], step_s))) for i in np.flatnonzero(shown > past + step_s)
        ]
        self.is_inside = self.utc >= low_s

    def planned(self, expression: Expression) -> Seconds:
        """Return the UTC seconds at which an expression fires."""
        due = expression.on(self.wall)
        if not expression.is_wildcard:
            due &= self.is_new
            for i, left_out in self.jumps:
                due[i] |= expression.on(left_out).any()
        return self.utc[due & self.is_inside]
