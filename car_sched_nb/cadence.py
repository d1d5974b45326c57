"""What `--every` takes: a length, or a cadence in words such as "weekday at 09:00"."""

from __future__ import annotations

import re

from car_sched_nb.cron import MACROS, Cron
from car_sched_nb.durations import format_duration, parse_duration
from car_sched_nb.errors import InvalidInput
from car_sched_nb.when import SECOND_US, WEEKDAYS, ClockTime, parse_clock, weekday_of

# What --every takes besides lengths. A clock has a colon, am, pm or a name; after "at" a bare hour will do.
_SURE_CLOCK = r"(?:[0-9]{1,2}(?::[0-9]{2}){1,2}\s?(?:[ap]\.?m\.?)?|[0-9]{1,2}\s?[ap]\.?m\.?|noon|midday|midnight)"
_ANY_CLOCK = rf"(?:{_SURE_CLOCK}|[0-9]{{1,2}})"
_AND = r"\s*(?:,\s*and\s|,|\sand\s)\s*"
# Left to re to compile at first use: that takes longer than importing all the rest.
_PHRASES = (
    rf"(?:(?P<days>.+?)\s+)?at\s+(?P<times>{_ANY_CLOCK}(?:{_AND}{_ANY_CLOCK})*)",
    rf"at\s+(?P<times>{_ANY_CLOCK}(?:{_AND}{_ANY_CLOCK})*)\s+(?:on\s+)?(?P<days>.+)",
    rf"(?P<days>.+?)\s+(?P<times>{_SURE_CLOCK}(?:{_AND}{_SURE_CLOCK})*)",
    rf"(?P<times>{_SURE_CLOCK}(?:{_AND}{_SURE_CLOCK})*)\s+(?:on\s+)?(?P<days>.+)",
    r"(?P<days>)(?P<times>noon|midday|midnight|[0-9:]+\s?[ap]\.?m\.?)",
    r"(?P<days>.+)(?P<times>)",
)
_UNITS = {"second": "1s", "minute": "1m", "hour": "1h", "day": "1d", "week": "1w"}
_CADENCES = {name[1:]: expr for name, expr in MACROS.items()} | {"month": "0 0 1 * *", "year": "0 0 1 1 *"}
_DATES = (
    r"(?P<month>month(?:ly)?(?:\s+on)?\s+)?(?:the\s+)?(?P<day>days?\s+)?"
    rf"(?P<dates>[0-9]{{1,2}}(?:st|nd|rd|th)?(?:{_AND}(?:the\s+)?[0-9]{{1,2}}(?:st|nd|rd|th)?)*)"
    r"(?P<of>\s+of\s+(?:the\s+)?month)?"
)
_LAST_DATE = r"(?:month(?:ly)?\s+)?(?:on\s+)?(?:the\s+)?last\s+(day|weekday)(?:\s+of\s+(?:the\s+)?month)?"
PHRASES = "'weekday at 09:00', 'monday and friday at 8:30', 'day at noon', 'hour at :15' or 'month on the 1st at 9:00'"


def parse_phrase(text: str) -> tuple[str, str]:
    """Return what `--every` asks for: an interval, or a cron expression for what names a time or a day.

    Parameters
    ----------
    text
        A duration or a bare unit (``5m``, ``hour``) is an interval; ``hourly``, ``weekday at 09:00``, ``mon,wed 9am``,
        ``day at noon``, ``month on the 1st at 9:00``, ``hour at :15`` are cron. A leading "every" may stand there.

    Returns
    -------
    tuple
        ``("interval", canonical duration)`` or ``("cron", canonical expression)``; a day without a time is at 00:00.

    Raises
    ------
    InvalidInput
        For anything else, with both shapes.
    """
    spoken = re.sub(r"\b(every|each)\s+", "", " ".join(text.split()), flags=re.IGNORECASE)
    given = spoken.lower()
    if given in _UNITS:
        return "interval", _UNITS[given]
    try:
        return "interval", format_duration(parse_duration(spoken))
    except InvalidInput as error:
        expr = given if given.startswith("@") else _CADENCES.get(given) or _cron_of_phrase(given)
        if expr is None:
            raise _phrase_refusal(text, given, error) from None
    return "cron", Cron(expr, "UTC").expr


def _cron_of_phrase(given: str) -> str | None:
    if marks := re.fullmatch(rf"(?:hour|hourly)\s+at\s+(:[0-9]{{2}}(?:{_AND}:[0-9]{{2}})*)", given):
        minutes = sorted({parse_clock(f"00{mark}").minute for mark in re.split(_AND, marks[1])})
        return f"{','.join(map(str, minutes))} * * * *"
    for shape in _PHRASES:
        phrase = re.fullmatch(shape, given)
        days = _day_fields(phrase["days"] or "day") if phrase else None
        if phrase and days:
            clocks = [parse_clock(clock, bare_hour=True) for clock in re.split(_AND, phrase["times"]) if clock]
            return f"{_clock_fields(clocks or [ClockTime(0, 0, 0)], given)} {days}"
    return None


def _clock_fields(clocks: list[ClockTime], given: str) -> str:
    """Return the second (where there is one), minute and hour fields that fire at these times and at no other."""
    seconds, minutes, hours = ({clock[i] for clock in clocks} for i in (2, 1, 0))
    if len(seconds) * len(minutes) * len(hours) != len(set(clocks)):
        raise InvalidInput(f"{given!r} needs a task for each time, or times with the same minutes: 9:30 and 17:30")
    fields = [minutes, hours] if seconds == {0} else [seconds, minutes, hours]
    return " ".join(",".join(map(str, sorted(values))) for values in fields)


def _day_fields(days: str) -> str | None:
    """Return the day, month and weekday fields of "weekdays" or "month on the 1st", or None for what names no day."""
    days = days.removeprefix("on ")
    if days in ("day", "days", "daily"):
        return "* * *"
    if days in ("month", "monthly"):
        return "1 * *"
    if last := re.fullmatch(_LAST_DATE, days):
        return "L * *" if last[1] == "day" else "LW * *"
    dates = re.fullmatch(_DATES, days)
    if dates and (dates["month"] or dates["day"] or dates["of"] or re.search("[a-z]", dates["dates"])):
        numbers = sorted({int(number) for number in re.findall("[0-9]+", dates["dates"])})
        return f"{','.join(map(str, numbers))} * *"
    week = _week_of(days)
    if not week:
        return None
    named = {(0, 1, 2, 3, 4): "MON-FRI", tuple(range(7)): "*"}.get(tuple(sorted(week)))
    return "* * " + (named or ",".join(WEEKDAYS[day][:3].upper() for day in sorted(week)))


def _week_of(days: str) -> set[int] | None:
    """Return the weekdays of "mon-fri", "weekends" or "monday and friday", Monday is 0; None when a word is none."""
    week: set[int] = set()
    for words in re.split(rf"{_AND}|\s*&\s*|\s+", re.sub(r"\s*(-|\bto\b|\bthrough\b)\s*", "-", days)):
        first, *rest = words.split("-")
        start, stop = weekday_of(first), weekday_of(rest[0] if rest else first)
        if words.removesuffix("s") in ("weekday", "workday"):
            week |= {0, 1, 2, 3, 4}
        elif words.removesuffix("s") == "weekend":
            week |= {5, 6}
        elif start is None or stop is None or len(rest) > 1:
            return None
        else:
            week |= {(start + n) % 7 for n in range((stop - start) % 7 + 1)}
    return week


def _phrase_refusal(text: str, given: str, error: InvalidInput) -> InvalidInput:
    """Say what is wrong with a text that is neither a duration nor a phrase."""
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", given):
        clock = parse_clock(given)
        length = format_duration(clock.seconds * SECOND_US)
        return InvalidInput(f"{text!r} may be a length or a time of day: write {length} or 'day at {clock}'")
    if "*" in given and re.fullmatch(r"[0-9a-z*/,#-]+(\s[0-9a-z*/,#-]+){4,5}", given):
        return InvalidInput(f"{text!r} looks like a cron expression: write --cron {text!r}")
    if re.match(r"(week|weekly)\s", given):
        return InvalidInput(f"{text!r} does not say which day of the week: write 'monday at 09:00'")
    if re.match(r"[-+.]?[0-9]", given):
        return InvalidInput(f"{error}. A time of day is written like 'weekday at 09:00'")
    return InvalidInput(
        f"{text!r} is no schedule: write a length like 5m, 1h30m or '5 minutes', or a time like {PHRASES}"
    )
