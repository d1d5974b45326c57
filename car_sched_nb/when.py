"""Instants as people write them, and the arithmetic of local time that they need.

Inside, an instant is UTC microseconds (`_us`). A *wall* second counts from 1970 as a clock on the wall of a zone
shows it: it jumps forward at the start of summer time and repeats itself at the end.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Any, NamedTuple

from car_sched_nb.durations import parse_duration
from car_sched_nb.errors import InvalidInput

SECOND_US = 1_000_000
DAY_S = 86_400
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FORMS = "a time is like 09:00, 9am, 2026-11-23T09:00, 2026-11-23T09:00Z, 'tomorrow 09:00', 'monday 08:30' or 'in 10m'"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_YEARS = range(1970, 9999)
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-9]{2})(?::([0-9]{2}))?)?\s*([ap]\.?m\.?)?", re.IGNORECASE)
_DATED = re.compile(
    r"([0-9]{4}-[0-9]{1,2}-[0-9]{1,2})(?:(?:t|\s+at\s+|\s+)(.+?)(?:\.([0-9]{1,6}))?)?\s*(z|[+-][0-9]{2}(?::?[0-9]{2})?)?",
    re.IGNORECASE,
)
_SLIP = re.compile(r"\s*[0-9]+\s*(?![ap]\.?m)[a-z]{2,}\s*", re.IGNORECASE)  # "7 dayz": a length, by its looks
_DAY = re.compile(r"(today|yesterday|tomorrow|[a-z]{3,9})(?:\s+(at\s+)?(.+))?", re.IGNORECASE)


class ClockTime(NamedTuple):
    """A time of day on the wall."""

    hour: int
    minute: int
    second: int

    @property
    def seconds(self) -> int:
        """Seconds since midnight, as the wall shows it."""
        return self.hour * 3600 + self.minute * 60 + self.second

    def __str__(self) -> str:
        return f"{self.hour:02d}:{self.minute:02d}" + (f":{self.second:02d}" if self.second else "")


def parse_when(text: str, *, now_us: int, zone: str | None = None) -> int:
    """Return the instant that a text names.

    A text without an offset is local time in `zone`. A local time that summer time leaves out is moved forward to the
    first one that exists; one that comes twice means the first of the two.

    Parameters
    ----------
    text
        ``09:00``, ``9:00:30``, ``9am``, ``noon`` (today, also when it has passed); ``2026-11-23`` (at 00:00),
        ``2026-11-23T09:00``, also with ``Z`` or an offset; ``tomorrow``, ``tomorrow 09:00``; ``monday 08:30`` (the next
        one); ``in 10m``, ``10m ago``, ``now``.
    now_us
        The present, UTC microseconds.
    zone
        An IANA name; None is the zone of this machine.

    Returns
    -------
    int
        UTC microseconds.

    Raises
    ------
    InvalidInput
        For anything else, epoch numbers included; it says what to type.
    """
    return _resolve(text, now_us, zone_info(zone_name(zone)))[0]


def parse_future(text: str, *, now_us: int, zone: str | None = None, option: str = "--at") -> int:
    """Return the instant that a text names, which has to be after `now_us`.

    Parameters
    ----------
    text, now_us, zone
        As for `parse_when`.
    option
        The option that the text was given to, for the message.

    Returns
    -------
    int
        UTC microseconds.

    Raises
    ------
    InvalidInput
        As `parse_when`; and for a time that has passed, with the next such time as it has to be typed.
    """
    info = zone_info(zone_name(zone))
    at_us, _ = _resolve(text, now_us, info)
    if at_us > now_us:
        return at_us
    if re.fullmatch(r"\s*(now|.*\bago)\s*", text, re.IGNORECASE):
        raise InvalidInput(f"{text.strip()} is not in the future; write for example: {option} 'in 10m'")
    day, clock_s = divmod(at_us // SECOND_US + offset_s(info, at_us // SECOND_US), DAY_S)
    today = _today(now_us, info)
    ahead = next(n for n in range(3) if wall_to_utc_s((today + n) * DAY_S + clock_s, info) * SECOND_US > now_us)
    again = datetime.fromordinal(_EPOCH_DAY + today + ahead) + timedelta(seconds=clock_s)
    named = ("today", "tomorrow", "the day after tomorrow")[ahead]
    passed = "has passed today" if day == today else "has passed"
    typed = again.isoformat(timespec="seconds" if again.second else "minutes")
    raise InvalidInput(f"{text.strip()} {passed}; the next is {named}: {option} {typed}")


class Read(NamedTuple):
    """An instant, UTC microseconds, and how it was read, where what was given could be two instants or is none."""

    at_us: int
    said: str | None = None


def parse_instant(given: Any, *, now_us: int, zone: str | None = None) -> int | None:
    """Return the instant that somebody gave, as `read_instant` reads it; None is None."""
    return None if given is None else read_instant(given, now_us=now_us, zone=zone).at_us


def read_instant(given: Any, *, now_us: int, zone: str | None = None, ahead: bool = False) -> Read:
    """Return the instant that somebody gave, and how it was read.

    Parameters
    ----------
    given
        A datetime or pandas Timestamp, a date (its first instant), a timedelta (so long ago), text that is a duration
        (so long ago) or as for `parse_when`; a weekday is the last such. What is naive is local time in `zone`; where
        that comes twice it is the first, or what its `fold` says, and where it is left out the first that exists.
    now_us, zone
        As for `parse_when`.
    ahead
        Whether a length is from now on, and a weekday the next such.

    Raises
    ------
    InvalidInput
        For anything else; it says what to type.
    """
    info = zone_info(zone_name(zone))
    if isinstance(given, str):
        return _read_text(given, now_us, info, ahead)
    missing = str(given) == "NaT"  # pandas' one is a datetime and no instant
    if isinstance(given, timedelta) and not missing:
        length_us = parse_duration(given)
        return Read(now_us + length_us if ahead else now_us - length_us)
    if not isinstance(given, date) or missing:
        raise InvalidInput(_no_instant(given))
    if given.year not in _YEARS:
        raise InvalidInput(f"{given} is not a time: years go from {_YEARS[0]} to {_YEARS[-1]}")
    if not isinstance(given, datetime):
        wall_s = (given.toordinal() - _EPOCH_DAY) * DAY_S
        at_us = wall_to_utc_s(wall_s, info) * SECOND_US
        return Read(at_us, _how_read(wall_s, at_us, info))
    if given.tzinfo is not None:
        return Read((given - _EPOCH) // timedelta(microseconds=1))
    wall_s, rest_us = divmod((given.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1), SECOND_US)
    second = _second_us(wall_s, info) if given.fold else None
    at_us = wall_to_utc_s(wall_s, info) * SECOND_US if second is None else second
    return Read(at_us + rest_us, None if second is not None else _how_read(wall_s, at_us, info))


def _read_text(given: str, now_us: int, info: zoneinfo.ZoneInfo, ahead: bool) -> Read:
    if re.fullmatch(r"\s*[0-9]{9,}(\.[0-9]*)?\s*", given):
        _clock_alone(given.strip())  # an epoch number, which would be a length of decades
    if re.fullmatch(r"\s*[0-9]+(\.[0-9]*)?\s*", given):
        number = given.strip()
        raise InvalidInput(f"{number!r} has no unit: write {number}d, {number}h or {number}s, or a day: 2026-11-23")
    try:
        length_us = parse_duration(given)
    except InvalidInput:
        if _SLIP.fullmatch(given):
            raise
    else:
        return Read(now_us + length_us if ahead else now_us - length_us)
    try:
        at_us, wall_s = _resolve(given, now_us, info)
    except InvalidInput as error:
        signed = re.fullmatch(r"\s*[-+\N{MINUS SIGN}]\s*([0-9].*[a-z])\s*", given, re.IGNORECASE)
        if signed and _is_duration(signed[1]):
            length = signed[1] if not ahead else f"in {signed[1]}"
            raise InvalidInput(f"{given!r} has a sign: write {length!r}{'' if ahead else ' for so long ago'}") from None
        if FORMS in str(error) or (
            "is not a time of day" in str(error) and not re.search(r":|[ap]\.?m", given.lower())
        ):
            length = "'in 7d'" if ahead else "how long ago, 7d"
            forms = f"write a day, 2026-11-23, an instant, '2026-11-23 09:00', or {length}"
            raise InvalidInput(f"{given!r} is not a time: {forms}") from None
        raise
    day = _DAY.fullmatch(" ".join(given.split()))
    if not ahead and wall_s is not None and at_us > now_us and day and weekday_of(day[1].lower()) is not None:
        wall_s -= 7 * DAY_S
        at_us = wall_to_utc_s(wall_s, info) * SECOND_US
    return Read(at_us, None if wall_s is None else _how_read(wall_s, at_us, info))


def _is_duration(given: str) -> bool:
    try:
        return parse_duration(given) > 0
    except InvalidInput:
        return False


def _no_instant(given: Any) -> str:
    kind = type(given).__name__
    if str(given) in ("None", "NaT", "nan", "<NA>"):
        return f"{given} is no instant; leave it out for no bound"
    if kind == "datetime64":
        return f"numpy's {given} may be UTC or local time: write pd.Timestamp({str(given)!r}, tz='UTC')"
    if isinstance(given, int | float) and not isinstance(given, bool):
        return f"{given} has no unit: write '{given}s' for a length, '2026-11-23T09:00Z' for an instant"
    return f"an instant is text, a date, a datetime or a Timestamp, not {kind}: {FORMS}"


def _second_us(wall_s: int, info: zoneinfo.ZoneInfo) -> int | None:
    """Return the second instant of a wall second that comes twice, or None."""
    naive = _EPOCH.replace(tzinfo=None) + timedelta(seconds=wall_s)
    offset = naive.replace(tzinfo=info, fold=1).utcoffset()
    assert offset is not None
    utc_s = wall_s - (offset.days * DAY_S + offset.seconds)
    twice = utc_s + offset_s(info, utc_s) == wall_s and utc_s != wall_to_utc_s(wall_s, info)
    return utc_s * SECOND_US if twice else None


def _how_read(wall_s: int, at_us: int, info: zoneinfo.ZoneInfo) -> str | None:
    """Say which instant was taken for a wall second that comes twice or never; None for one that comes once."""
    wall = (_EPOCH.replace(tzinfo=None) + timedelta(seconds=wall_s)).isoformat(" ", "minutes")
    taken = _datetime(at_us).astimezone(info).isoformat(timespec="minutes")
    if at_us // SECOND_US + offset_s(info, at_us // SECOND_US) != wall_s:
        return f"{wall} is left out in {info.key}, where clocks go forward: read as {taken}"
    second_us = _second_us(wall_s, info)
    if second_us is None:
        return None
    other = _datetime(second_us).astimezone(info).isoformat(timespec="minutes")
    return f"{wall} comes twice in {info.key}: read as the first, {taken}; the second is {other}"


def format_instant(us: int, zone: str | None = None) -> str:
    """Return an instant for people: ``Tue 2026-11-24 09:00:00 GMT``.

    Parameters
    ----------
    us
        UTC microseconds; a fraction of a second is cut off.
    zone
        An IANA name; None is the zone of this machine. A zone without an abbreviation shows its offset.

    Returns
    -------
    str
        The local time with its weekday and the abbreviation of the zone.
    """
    local = _datetime(us // SECOND_US * SECOND_US).astimezone(zone_info(zone_name(zone)))
    abbreviation = local.tzname() or ""
    if not abbreviation.isalpha():
        abbreviation = f"UTC{local.isoformat()[19:]}"
    # Not %a: that follows the locale of the machine.
    return f"{WEEKDAYS[local.weekday()][:3].capitalize()} {local:%Y-%m-%d %H:%M:%S} {abbreviation}"


def iso_us(us: int) -> str:
    """Return UTC microseconds as ISO 8601: ``2026-11-24T09:00:00Z``, with a fraction where there is one."""
    return _datetime(us).isoformat().replace("+00:00", "Z")


def parse_clock(text: str, *, bare_hour: bool = False) -> ClockTime:
    """Return the time of day that a text names.

    Parameters
    ----------
    text
        ``09:00``, ``9:00:30``, ``9am``, ``7:30 pm``, ``noon`` or ``midnight``.
    bare_hour
        Whether ``9`` alone is an hour.

    Raises
    ------
    InvalidInput
        When it is none, or out of its range.
    """
    given = text.strip().lower()
    given = {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}.get(given, given)
    match = _CLOCK.fullmatch(given)
    if match is None or (match[2] is None and match[4] is None and not bare_hour):
        raise InvalidInput(f"{text!r} is not a time of day{_clock_advice(given)}")
    hour, minute, second = (int(number or 0) for number in match.group(1, 2, 3))
    if match[4]:
        if not 1 <= hour <= 12:
            raise InvalidInput(f"{text!r} is not a time of day: with am and pm hours go from 1 to 12")
        hour = hour % 12 + 12 * match[4].startswith("p")
    for name, number, last in (("hours", hour, 23), ("minutes", minute, 59), ("seconds", second, 59)):
        if number > last:
            midnight = "; midnight is 00:00 of the next day" if name == "hours" and number == 24 else ""
            raise InvalidInput(f"{text!r} is not a time of day: {name} go from 00 to {last}{midnight}")
    return ClockTime(hour, minute, second)


def midnight_us(now_us: int, zone: str | None = None) -> int:
    """Return the instant at which the day of `now_us` began in a zone; None is the zone of this machine."""
    local = _datetime(now_us).astimezone(zone_info(zone_name(zone)))
    return (local.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC) - _EPOCH) // timedelta(
        microseconds=1
    )


def zone_name(zone: str | None) -> str:
    """Return the IANA name of a zone, of this machine's for None.

    Raises
    ------
    InvalidInput
        When there is no such zone, with the nearest names.
    """
    name = _local_zone() if zone is None else zone.strip()
    try:
        zone_info(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(_zone_advice(name)) from None
    return name


def zone_info(name: str) -> zoneinfo.ZoneInfo:
    """Return the zone of an IANA name that `zone_name` has checked."""
    return zoneinfo.ZoneInfo(name)


def offset_s(info: zoneinfo.ZoneInfo, utc_s: int) -> int:
    """Return what the walls of a zone are ahead of UTC at an instant, both in seconds."""
    offset = (_EPOCH + timedelta(seconds=utc_s)).astimezone(info).utcoffset()
    assert offset is not None
    return offset.days * DAY_S + offset.seconds


def offset_change_s(info: zoneinfo.ZoneInfo, low_s: int, high_s: int) -> int:
    """Return the first second after `low_s` with another offset than it; `high_s` has to have another one."""
    before = offset_s(info, low_s)
    while high_s - low_s > 1:
        middle = (low_s + high_s) // 2
        low_s, high_s = (middle, high_s) if offset_s(info, middle) == before else (low_s, middle)
    return high_s


def wall_to_utc_s(wall_s: int, info: zoneinfo.ZoneInfo) -> int:
    """Return the UTC second of a wall second: the end of a gap for one inside it, the first of two in an overlap."""
    naive = _EPOCH.replace(tzinfo=None) + timedelta(seconds=wall_s)
    offset = naive.replace(tzinfo=info).utcoffset()
    assert offset is not None
    utc_s = wall_s - (offset.days * DAY_S + offset.seconds)
    if utc_s + offset_s(info, utc_s) == wall_s:
        return utc_s
    # In a gap the wall seconds with the offset before and after it lie on both sides of the change (PEP 495).
    later = naive.replace(tzinfo=info, fold=1).utcoffset()
    assert later is not None
    return offset_change_s(info, wall_s - (later.days * DAY_S + later.seconds), utc_s)


def _datetime(us: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise InvalidInput(f"{us} microseconds is an instant outside the calendar: years go from 1 to 9999") from None


def _today(now_us: int, info: zoneinfo.ZoneInfo) -> int:
    return (now_us // SECOND_US + offset_s(info, now_us // SECOND_US)) // DAY_S


def _resolve(text: str, now_us: int, info: zoneinfo.ZoneInfo) -> tuple[int, int | None]:
    """Return the instant that a text names, and the wall second when that is what it names."""
    given = " ".join(text.split())
    lowered = given.lower()
    if lowered == "now":
        return now_us, None
    if lowered.startswith("in "):
        return now_us + parse_duration(given[3:]), None
    if lowered.endswith(" ago"):
        return now_us - parse_duration(given[:-4]), None
    if dated := _DATED.fullmatch(given):
        return _resolve_dated(dated, given, info)
    day = _DAY.fullmatch(given)
    if day and (ahead := _days_ahead(day[1].lower(), now_us, info)) is not None:
        clock = parse_clock(day[3], bare_hour=bool(day[2])) if day[3] else ClockTime(0, 0, 0)
        wall_s = (_today(now_us, info) + ahead) * DAY_S + clock.seconds
        at_us = wall_to_utc_s(wall_s, info) * SECOND_US
        # "monday 08:30" on a Monday after half past eight is next week's.
        if weekday_of(day[1].lower()) is not None and at_us <= now_us:
            wall_s += 7 * DAY_S
            at_us = wall_to_utc_s(wall_s, info) * SECOND_US
        return at_us, wall_s
    wall_s = _today(now_us, info) * DAY_S + _clock_alone(given).seconds
    return wall_to_utc_s(wall_s, info) * SECOND_US, wall_s


def _days_ahead(word: str, now_us: int, info: zoneinfo.ZoneInfo) -> int | None:
    """Return how many days a word is after today, or None when it names no day."""
    near = {"yesterday": -1, "today": 0, "tomorrow": 1}.get(word)
    if near is not None:
        return near
    weekday = weekday_of(word)
    today = date.fromordinal(_EPOCH_DAY + _today(now_us, info)).weekday()
    return None if weekday is None else (weekday - today) % 7


def weekday_of(word: str) -> int | None:
    """Return the weekday that a lower-case word names, Monday is 0, or None: ``mon``, ``thurs``, ``fridays``."""
    word = word.removesuffix("s") if word.endswith("days") else word
    return next((i for i, name in enumerate(WEEKDAYS) if len(word) >= 3 and name.startswith(word)), None)


def _clock_alone(given: str) -> ClockTime:
    """Read a text that can only be a time of day any more."""
    clock = given[3:] if given.lower().startswith("at ") else given
    if re.fullmatch(r"[0-9]{9,}(\.[0-9]+)?", given):
        raise InvalidInput(f"{given} looks like an epoch number, which has no unit: write 2026-11-23T09:00Z")
    if not re.match(r"[0-9]|noon|midday|midnight", clock, re.IGNORECASE):
        raise InvalidInput(f"{given!r} is not a time: {FORMS}")
    return parse_clock(clock, bare_hour=clock != given)


def _clock_advice(given: str) -> str:
    if re.fullmatch(r"[0-9]{1,2}", given) and int(given) < 24:
        return f": write {int(given):02d}:00"
    if dotted := re.fullmatch(r"([0-9]{1,2})[.h]([0-9]{2})", given):
        return f": write {dotted[1]}:{dotted[2]}"
    try:
        parse_duration(given)
    except InvalidInput:
        return ": write it like 09:00, 9:00:30 or 9am"
    return f": for a length of time write 'in {given}'"


def _resolve_dated(match: re.Match[str], given: str, info: zoneinfo.ZoneInfo) -> tuple[int, int | None]:
    """Return the instant of a date with or without a time of day and an offset, and the wall second without one."""
    day_text, clock_text, fraction, offset = match.groups()
    year, month, day = (int(number) for number in day_text.split("-"))
    try:
        midnight_s = (date(year, month, day).toordinal() - _EPOCH_DAY) * DAY_S
    except ValueError as error:
        raise InvalidInput(f"{given!r} is not a time: {day_text} is not in the calendar, {error}") from None
    if year not in _YEARS:
        raise InvalidInput(f"{given!r} is not a time: years go from {_YEARS[0]} to {_YEARS[-1]}")
    if fraction and clock_text.count(":") != 2:
        raise InvalidInput(f"{given!r} is not a time: only seconds have decimals, as in 09:00:30.5")
    clock = parse_clock(clock_text) if clock_text else ClockTime(0, 0, 0)
    wall_s = midnight_s + clock.seconds
    utc_s = wall_to_utc_s(wall_s, info) if offset is None else wall_s - _offset_of(offset)
    return utc_s * SECOND_US + int((fraction or "").ljust(6, "0")), wall_s if offset is None else None


def _offset_of(text: str) -> int:
    if text in "zZ":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 15 or minutes > 59:
        raise InvalidInput(f"{text} is not an offset from UTC: write it like +01:00")
    return (hours * 3600 + minutes * 60) * (-1 if text[0] == "-" else 1)


def _local_zone() -> str:
    import tzlocal

    try:
        name = tzlocal.get_localzone_name()
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        name = None
    if not name:
        raise InvalidInput("this machine does not tell its time zone; give one: --tz Europe/London")
    return "UTC" if name == "Etc/UTC" else str(name)


def _zone_advice(name: str) -> str:
    """Name the zones nearest to `name`, by their whole name or by their city."""
    spoken: dict[str, str] = {}
    for zone in sorted(zoneinfo.available_timezones()):
        spoken.setdefault(zone.lower(), zone)
        spoken.setdefault(zone.rpartition("/")[2].lower(), zone)
    wanted = name.lower().replace(" ", "_")
    # One slip of the finger has one answer; a worse one has several.
    near = get_close_matches(wanted, spoken, n=1, cutoff=0.9) or get_close_matches(wanted, spoken, cutoff=0.7)
    close = " or ".join(dict.fromkeys(spoken[name] for name in near))
    hint = f"did you mean {close}?" if close else "write an IANA name like Europe/London, or UTC"
    return f"{name} is not a time zone: {hint}" if name else f"the time zone is empty: {hint}"
