"""Cron expressions: the instants at which one fires, and their reading in plain English.

The rules are those of Debian's cron (cron(8), "Notes"; cron 3.0pl1); docs/cron.md tells them with examples. An
expression whose seconds, minute or hour starts with a star is a wildcard: it fires whenever the wall shows a matching
time. Any other is at fixed times, each of which counts once: one that summer time leaves out fires when the gap ends,
one that comes twice fires the first time. Debian has no seconds; with them the rule is the same.

cronsim 2.8 reads the expression and decides which days match; the steps are taken here. Its own iteration

- loses times where the clock changes by half an hour (Australia/Lord_Howe: `0 0 3 * * *` loses a day);
- depends on where it starts, and backwards misses times (the 01:30 before it at 01:00 after London's change);
- stays at one instant for ever where the clock went back at 00:01 (America/St_Johns, 2000-10-29: `0 */2 * * *`);
- has no fixed times when there are seconds: they are lost in a gap and come twice in an overlap;
- gives a wildcard a time that no wall shows when the gap is at midnight (Africa/Cairo, 2026-04-24: `* 0 * * FRI`).

Slots may neither vanish nor move: tests/unit/test_cron_oracle.py compares the steps with a look at every minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from car_sched_nb.errors import InvalidInput
from car_sched_nb.when import (
    DAY_S,
    SECOND_US,
    WEEKDAYS,
    ClockTime,
    offset_change_s,
    offset_s,
    wall_to_utc_s,
    zone_info,
    zone_name,
)

if TYPE_CHECKING:
    from cronsim import CronSim

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
SHAPE = "minute hour day-of-month month day-of-week, as in '0 9 * * MON-FRI'; a sixth, seconds, may go first"

_MONTHS = tuple(
    name.capitalize()
    for name in (
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    )
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
# A 29 February falls on a given weekday every 28 years, and after 40 across 2100.
_HORIZON_S = 41 * 366 * DAY_S
_FIRST_S, _LAST_S = -2_208_988_800, 253_000_000_000  # 1900 to 9987, well inside what datetime can hold
_ANY_START = datetime(2000, 1, 1, tzinfo=UTC)  # cronsim wants one; only what it read is used
_SLOT = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class _Field(NamedTuple):
    name: str
    first: str
    last: str
    first_name: str = ""
    last_name: str = ""
    also: str = ""


_FIELDS = (
    _Field("second", "0", "59"),
    _Field("minute", "0", "59"),
    _Field("hour", "0", "23"),
    _Field("day of the month", "1", "31", also=", L (the last day) or LW (the last weekday)"),
    _Field("month", "1", "12", "JAN", "DEC"),
    _Field(
        "day of the week", "0", "6", "SUN", "SAT", also=", 7 (Sunday), MON#2 (the second one) or 5L (the last Friday)"
    ),
)


@dataclass(frozen=True, slots=True, init=False)
class Cron:
    """A cron expression in a time zone; instants are UTC microseconds, in and out.

    Parameters
    ----------
    expr
        Five fields, six with seconds first, or a macro such as ``@daily``. Kept in a canonical form: macros expanded,
        names in capitals, single spaces, no leading zeros.
    zone
        An IANA name; None is the zone of this machine, kept by its name.

    Raises
    ------
    InvalidInput
        For a field out of its range, a wrong number of fields, a date that never comes or an unknown zone.
    """

    expr: str
    zone: str

    def __init__(self, expr: str, zone: str | None = None) -> None:
        object.__setattr__(self, "expr", _canonical(expr))
        object.__setattr__(self, "zone", zone_name(zone))
        _calendar(self.expr)

    def next_after(self, us: int) -> int | None:
        """Return the first fire strictly after an instant, or None beyond the calendar."""
        low_s = us // SECOND_US + 1
        return next((s * SECOND_US for s in self._fires(low_s, low_s + _HORIZON_S)), None)

    def latest_at(self, us: int) -> int | None:
        """Return the newest fire not after an instant, or None before the calendar."""
        high_s = us // SECOND_US + 1
        return next((s * SECOND_US for s in self._fires(high_s - _HORIZON_S, high_s, -1)), None)

    def between(self, after_us: int, until_us: int) -> Iterator[int]:
        """Yield the fires after the first instant and not after the second, in their order."""
        for second in self._fires(after_us // SECOND_US + 1, until_us // SECOND_US + 1):
            yield second * SECOND_US

    def count_between(self, after_us: int, until_us: int) -> int:
        """Return how many fires `between` would yield; a year of minutes takes milliseconds."""
        low_s, high_s = _clamp(after_us // SECOND_US + 1), _clamp(until_us // SECOND_US + 1)
        calendar, info = _calendar(self.expr), zone_info(self.zone)
        if calendar.at_fixed_times:
            return sum(1 for _ in self._fires(low_s, high_s))
        count = 0
        for offset, run in groupby(_pieces(info, low_s, high_s), key=itemgetter(2)):
            pieces = list(run)
            count += calendar.count(pieces[0][0] + offset, pieces[-1][1] + offset)
        return count

    @staticmethod
    def slot(us: int) -> str:
        """Return the slot of an instant, cut to its second: ``20261122T090000Z``."""
        return (_EPOCH + timedelta(seconds=us // SECOND_US)).strftime("%Y%m%dT%H%M%SZ")

    @staticmethod
    def from_slot(slot: str) -> int:
        """Return the instant of a slot.

        Raises
        ------
        InvalidInput
            When the text is none.
        """
        try:
            # The pattern alone would let 30 February through, strptime alone 2026112T9000Z.
            text = slot if _SLOT.fullmatch(slot) else ""
            instant = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise InvalidInput(f"{slot!r} is not a cron slot: write a UTC instant like 20261122T090000Z") from None
        return (instant - _EPOCH) // timedelta(microseconds=1)

    def words(self) -> str:
        """Return the expression in plain English: "at 09:00 on weekdays, Europe/London"."""
        return f"{_words(self.expr)}, {self.zone}"

    def _fires(self, low_s: int, high_s: int, step: int = 1) -> Iterator[int]:
        """Yield the fires from `low_s` up to but not including `high_s`, UTC seconds; backwards for a step of -1."""
        low_s, high_s = _clamp(low_s), _clamp(high_s)
        calendar, info = _calendar(self.expr), zone_info(self.zone)
        if calendar.at_fixed_times:
            yield from _fixed(calendar, info, low_s, high_s, step)
            return
        for low, high, offset in _pieces(info, low_s, high_s, step):
            for wall in calendar.walls(low + offset, high + offset, step):
                yield wall - offset


@dataclass(frozen=True, slots=True)
class _Calendar:
    """What an expression says, without a zone: which seconds of a wall match."""

    source: CronSim
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    at_fixed_times: bool

    def matches(self, day: int) -> bool:
        """Tell whether a day, counted from 1970-01-01, matches."""
        on = date.fromordinal(_EPOCH_DAY + day)
        return on.month in self.months and self.source.match_day(on)

    def walls(self, low: int, high: int, step: int = 1) -> Iterator[int]:
        """Yield the wall seconds that match from `low` up to but not including `high`."""
        for day in range(low // DAY_S, (high - 1) // DAY_S + 1)[::step]:
            if not self.matches(day):
                continue
            for hour in self.hours[::step]:
                hour_s = day * DAY_S + hour * 3600
                if hour_s >= high or hour_s + 3600 <= low:
                    continue
                for minute in self.minutes[::step]:
                    minute_s = hour_s + minute * 60
                    if minute_s >= high or minute_s + 60 <= low:
                        continue
                    yield from (minute_s + s for s in self.seconds[::step] if low <= minute_s + s < high)

    def count(self, low: int, high: int) -> int:
        """Return how many wall seconds match, without walking through whole days."""
        first, last = -(-low // DAY_S), high // DAY_S
        if first >= last:
            return sum(1 for _ in self.walls(low, high))
        a_day = len(self.hours) * len(self.minutes) * len(self.seconds)
        whole = sum(a_day for day in range(first, last) if self.matches(day))
        return whole + sum(1 for _ in self.walls(low, first * DAY_S)) + sum(1 for _ in self.walls(last * DAY_S, high))


def _fixed(calendar: _Calendar, info: ZoneInfo, low_s: int, high_s: int, step: int) -> Iterator[int]:
    """Yield the instants of jobs at fixed times, where a gap moves a time and an overlap does not repeat it."""
    # Around a change a wall second and its instant are apart by either offset; too wide a window only costs a look.
    low = low_s + min(offset_s(info, low_s), offset_s(info, low_s - DAY_S))
    high = high_s + max(offset_s(info, high_s), offset_s(info, high_s - DAY_S))
    before = None
    for wall in calendar.walls(low, high, step):
        second = wall_to_utc_s(wall, info)
        # Two times in one gap are one fire, at its end.
        if low_s <= second < high_s and second != before:
            yield second
            before = second


def _pieces(info: ZoneInfo, low_s: int, high_s: int, step: int = 1) -> Iterator[tuple[int, int, int]]:
    """Yield (from, to, offset) pieces of UTC time that have one offset each, in at most a day's steps."""
    while low_s < high_s:
        # A zone may change and change back within a month (Africa/Casablanca), not within a day.
        start, stop = (low_s, min(low_s + DAY_S, high_s)) if step > 0 else (max(high_s - DAY_S, low_s), high_s)
        first, last = offset_s(info, start), offset_s(info, stop - 1)
        if first != last:
            change = offset_change_s(info, start, stop - 1)
            halves = ((start, change, first), (change, stop, last))
            yield from halves[::step]
        else:
            yield start, stop, first
        low_s, high_s = (stop, high_s) if step > 0 else (low_s, start)


def _clamp(second: int) -> int:
    return min(max(second, _FIRST_S), _LAST_S)


def _canonical(expr: str) -> str:
    fields = expr.upper().split()
    if fields and fields[0].startswith("@"):
        macro = MACROS.get(expr.strip().lower())
        if macro is None:
            raise InvalidInput(f"{expr!r} is not a cron macro: there are {', '.join(MACROS)}")
        return macro
    if len(fields) not in (5, 6):
        raise InvalidInput(f"{expr!r} has {len(fields)} field{'s' * (len(fields) != 1)}, cron has 5: {SHAPE}")
    text = " ".join(re.sub(r"(?<![0-9])0+(?=[0-9])", "", field) for field in fields)
    # cronsim 2.8 reads 4-4/5 as 4/5, which is 4,9,14 and so on.
    return re.sub(r"\b([0-9A-Z]+)-\1/[1-9][0-9]*(?![0-9A-Z])", r"\1", text)


@lru_cache(maxsize=1024)
def _calendar(expr: str) -> _Calendar:
    """Return what a canonical expression says; InvalidInput when it says nothing."""
    from cronsim import CronSim, CronSimError

    fields = expr.split()
    try:
        source = CronSim(expr, _ANY_START)
    except CronSimError:
        raise _refusal(expr, fields) from None
    calendar = _Calendar(
        source=source,
        seconds=tuple(sorted(source.seconds)),
        minutes=tuple(sorted(source.minutes)),
        hours=tuple(sorted(source.hours)),
        months=frozenset(source.months),
        # All before the last three, which are the days: hour, minute and, where they are given, seconds.
        at_fixed_times=not any(field.startswith("*") for field in fields[:-3]),
    )
    first = date(2000, 1, 1).toordinal() - _EPOCH_DAY
    if not any(calendar.matches(day) for day in range(first, first + _HORIZON_S // DAY_S)):
        raise _never(expr)
    return calendar


def _never(expr: str) -> InvalidInput:
    return InvalidInput(
        f"{expr!r} never fires: there is no such date; for the last day of a month write L: '0 9 L * *'"
    )


def _refusal(expr: str, fields: list[str]) -> InvalidInput:
    """Name the field and the term that cronsim refused, which only says "Bad minute"."""
    for field, text in zip(_FIELDS[-len(fields) :], fields, strict=True):
        for term in text.split(","):
            if not _is_valid(field, term):
                return InvalidInput(f"{expr!r} is not a cron expression: {field.name} {term!r} {_why(field, term)}")
    # Each field is good, so it is the day that no month of the expression has.
    return _never(expr)


def _why(field: _Field, term: str) -> str:
    ends = re.fullmatch(r"([0-9]+|[A-Z]{3})-([0-9]+|[A-Z]{3})", term)
    if ends and _is_valid(field, ends[1]) and _is_valid(field, ends[2]):
        named = ends[1].isalpha() and ends[2].isalpha()
        first, last = (field.first_name, field.last_name) if named else (field.first, field.last)
        parts = [a if a == b else f"{a}-{b}" for a, b in ((ends[1], last), (first, ends[2]))]
        return f"runs backwards: write {','.join(parts)}"
    if re.fullmatch(r".*/0*", term):
        return "has no step: a step is 1 or more, as in */5"
    if "?" in term:
        return "is written as * here"
    names = f" or {field.first_name}-{field.last_name}" if field.first_name else ""
    return f"is not in its range: write {field.first}-{field.last}{names}{field.also}"


def _is_valid(field: _Field, term: str) -> bool:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(" ".join(term if other is field else "*" for other in _FIELDS), _ANY_START)
    except CronSimError:
        return False
    return bool(term)


def _words(expr: str) -> str:
    calendar = _calendar(expr)
    time, days = _time_words(calendar), _day_words(calendar)
    if time is None or days is None:
        explained = calendar.source.explain()
        return explained[:1].lower() + explained[1:]
    if not time.startswith("at"):
        days = days.removeprefix("every day").lstrip()
    return f"{time} {days}".rstrip()


def _time_words(calendar: _Calendar) -> str | None:
    """Return "every 5 minutes" or "at 09:00 and 17:00", or None for what is neither."""
    seconds, minutes, hours = calendar.seconds, calendar.minutes, calendar.hours
    if len(hours) == 24 and len(minutes) == 60:
        return "every minute" if seconds == (0,) else _cadence(seconds, 60, "second")
    if seconds == (0,):
        marks = "" if minutes == (0,) else " at " + _listed([f":{m:02d}" for m in minutes])
        if len(hours) == 24:
            return _cadence(minutes, 60, "minute") or (f"every hour{marks}" if len(minutes) <= 4 else None)
        if len(minutes) == 1 and len(hours) >= 4 and (every := _cadence(hours, 24, "hour")):
            return every + marks
    if len(seconds) * len(minutes) * len(hours) > 6:
        return None
    return "at " + _listed([str(ClockTime(h, m, s)) for h in hours for m in minutes for s in seconds])


def _cadence(values: tuple[int, ...], size: int, unit: str) -> str | None:
    """Return "every 5 minutes" when the values are evenly spread over the whole circle."""
    step = size // len(values)
    if len(values) == 1 or values != tuple(range(0, size, step)):
        return None
    return f"every {unit}" if step == 1 else f"every {step} {unit}s"


def _day_words(calendar: _Calendar) -> str | None:
    """Return "every day", "on weekdays" or "on day 1 of the month", or None for what is none of them."""
    source = calendar.source
    week = {day % 7 for day in source.weekdays if isinstance(day, int)}
    months = [_MONTHS[month - 1] for month in sorted(calendar.months)] if len(calendar.months) < 12 else []
    if len(months) > 4 or any(isinstance(day, tuple) for day in source.weekdays):
        return None
    any_date, any_weekday = source.days.issuperset(range(1, 32)), len(week) == 7
    # Without a star, either of the two is enough, so that 1-31 lets every day through.
    if (any_date and any_weekday) or (not source.day_and and (any_date or any_weekday)):
        return "every day" + (f" in {_listed(months)}" if months else "")
    if any_weekday:
        return _date_words(sorted(source.days), months)
    return _weekday_words(week) + (f" in {_listed(months)}" if months else "") if any_date else None


def _weekday_words(week: set[int]) -> str:
    if week == {1, 2, 3, 4, 5}:
        return "on weekdays"
    if week == {0, 6}:
        return "on weekends"
    return "on " + _listed([name.capitalize() for i, name in enumerate(WEEKDAYS, start=1) if i % 7 in week])


def _date_words(days: list[int], months: list[str]) -> str | None:
    if len(days) > 4:
        return None
    numbers = [str(day) for day in days if day > 0]
    if len(days) == len(numbers) == len(months) == 1:
        return f"on {numbers[0]} {months[0]}"
    # cronsim keeps L as -1000 and LW as -1001.
    names = [f"day{'s' * (len(numbers) > 1)} {_listed(numbers)}"] if numbers else []
    names += [{-1000: "the last day", -1001: "the last weekday"}[day] for day in days if day < 0]
    return f"on {_listed(names)} of {_listed(months) or 'the month'}"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
