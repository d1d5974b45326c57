"""Durations as people write them, to and from whole microseconds."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache

from car_sched_nb.errors import InvalidInput

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
LONGEST_US = 36_525 * DAY_US

FORMS = "a duration is like 500ms, 30s, 5m, 1h30m, 2d, 1w or '5 minutes', and a bare number is seconds"
TOO_LONG = "it is above the limit of 100 years: write 36525d or less"
TOO_FINE = "it is finer than a microsecond: write 0.001ms or a multiple of it"

_NAMES_OF_UNIT = {
    "ms": (MILLISECOND_US, "ms msec msecs millisecond milliseconds"),
    "s": (SECOND_US, "s sec secs second seconds"),
    "m": (MINUTE_US, "m min mins minute minutes"),
    "h": (HOUR_US, "h hr hrs hour hours"),
    "d": (DAY_US, "d day days"),
    "w": (WEEK_US, "w wk wks week weeks"),
}
_UNIT_OF_NAME = {name: unit for unit, (_, names) in _NAMES_OF_UNIT.items() for name in names.split()}
_US_OF_UNIT = {unit: us for unit, (us, _) in _NAMES_OF_UNIT.items()}

_DIGITS = 18  # more of them are too long or too fine; Python refuses to read thousands
_NUMBER = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_BARE = re.compile(rf"(?:{_NUMBER})")
_PART = re.compile(rf"\s*(?:,\s*|and\s+)?({_NUMBER}|an?(?=\s))\s*([a-zµμ]+)\s*", re.IGNORECASE)
_VAGUE_UNITS = {"mo": "month", "month": "month", "months": "month", "y": "year", "year": "year", "years": "year"}


def parse_duration(value: str | float | timedelta, *, allow_zero: bool = False) -> int:
    """Return the microseconds that a duration stands for, or refuse it.

    Parameters
    ----------
    value
        Text such as ``500ms``, ``1h30m``, ``1.5h``, ``5 minutes`` or ``an hour``; a number, or text that is only a
        number, in seconds; or a timedelta. A float is rounded to the nearest microsecond.
    allow_zero
        Whether a length of zero is accepted.

    Returns
    -------
    int
        Microseconds, at most 100 years of them.

    Raises
    ------
    InvalidInput
        For anything else. Nothing has a silent default: the message says what to type instead.
    """
    us = _us_of_text(value) if isinstance(value, str) else _us_of_object(value)
    if us < 0:
        raise _refusal(value, f"a duration is positive: write {format_duration(min(-us, LONGEST_US))}")
    if us == 0 and not allow_zero:
        raise _refusal(value, "a duration of zero is none: write 1s, or the length that you mean")
    if us > LONGEST_US:
        raise _refusal(value, TOO_LONG)
    return us


def format_duration(us: int) -> str:
    """Return the canonical text of a duration, which `parse_duration` reads back exactly.

    Parameters
    ----------
    us
        Microseconds, zero or more.

    Returns
    -------
    str
        Such as ``5m``, ``1h30m``, ``1w``, ``250ms``, ``1.5ms`` or ``1m0.5s``; weeks only where they are whole.
    """
    if us < 0:
        raise InvalidInput(f"{us} microseconds is not a duration: it is negative")
    if us < SECOND_US:
        return f"{_decimal(us, MILLISECOND_US)}ms" if us else "0s"
    if us % WEEK_US == 0:
        return f"{us // WEEK_US}w"
    return "".join(f"{number}{unit}" for number, unit in _parts(us))


def duration_words(us: int) -> str:
    """Return a duration for people, rounded to milliseconds below a minute and to seconds above.

    Parameters
    ----------
    us
        Microseconds; a negative length gets a minus sign.

    Returns
    -------
    str
        Such as ``250 ms``, ``5 s``, ``1 h 30 min`` or ``2 days``.
    """
    if us < 0:
        return f"-{duration_words(-us)}"
    if 0 < us < SECOND_US:
        step = MILLISECOND_US if us >= 10 * MILLISECOND_US else 1
        rounded = (us + step // 2) // step * step
        if rounded < SECOND_US:
            return f"{_decimal(rounded, MILLISECOND_US)} ms"
        us = rounded
    step = MILLISECOND_US if us < MINUTE_US else SECOND_US
    us = (us + step // 2) // step * step
    shown = {"d": "day", "m": "min"}
    words = [f"{n} {shown.get(unit, unit)}" + "s" * (unit == "d" and n != "1") for n, unit in _parts(us)]
    return " ".join(words) or "0 s"


def _us_of_object(value: object) -> int:
    # bool is an int, but `every=True` is a mistake and not one second.
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refusal(value, FORMS)
    if isinstance(value, float) and not math.isfinite(value):
        raise _refusal(value, f"it has no length; {FORMS}")
    # The product of a huge float would be infinite, which has no whole microseconds.
    if abs(value) > LONGEST_US:
        raise _refusal(value, TOO_LONG)
    return round(value * SECOND_US)


@lru_cache(maxsize=1024)
def _us_of_text(text: str) -> int:
    given = text.strip()
    if _BARE.fullmatch(given):
        return _scaled(given, SECOND_US, text)
    parts = list(_scan(given))
    if not parts or any(name.lower() not in _UNIT_OF_NAME or name == "M" for _, name in parts):
        raise _refusal(text, _advice(given))
    sizes = [_US_OF_UNIT[_UNIT_OF_NAME[name.lower()]] for _, name in parts]
    if sizes != sorted(set(sizes), reverse=True):
        raise _refusal(text, "units go from the largest to the smallest, each one once: write 1h30m")
    if any("." in number for number, _ in parts[:-1]):
        raise _refusal(text, "only the last number may have decimals: write 1h30m or 1.5h")
    return sum(_scaled(number, size, text) for (number, _), size in zip(parts, sizes, strict=True))


def _scan(given: str) -> Iterator[tuple[str, str]]:
    """Yield (number, unit name) pairs; nothing at all when a part of the text is neither."""
    found = []
    at = 0
    while at < len(given):
        part = _PART.match(given, at)
        # A separator joins two parts; it cannot open the text.
        if part is None or (at == 0 and part.start(1) != 0):
            return
        number, name = part.groups()
        found.append(("1" if number.lower() in ("a", "an") else number, name))
        at = part.end()
    yield from found


def _scaled(number: str, unit_us: int, text: str) -> int:
    """Multiply without floats, so that 0.1s is 100,000 microseconds and not nearly so."""
    whole, _, decimals = number.partition(".")
    if len(whole.lstrip("0")) > _DIGITS:
        raise _refusal(text, TOO_LONG)
    decimals = decimals.rstrip("0")
    if len(decimals) > _DIGITS:
        raise _refusal(text, TOO_FINE)
    us, rest = divmod(int((whole or "0") + decimals) * unit_us, int("1" + "0" * len(decimals)))
    if rest:
        raise _refusal(text, TOO_FINE)
    return us


def _decimal(us: int, unit_us: int) -> str:
    whole, rest = divmod(us, unit_us)
    decimals = f"{rest:0{len(str(unit_us)) - 1}d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else f"{whole}"


def _parts(us: int) -> list[tuple[str, str]]:
    parts = []
    for unit in "dhm":
        number, us = divmod(us, _US_OF_UNIT[unit])
        if number:
            parts.append((str(number), unit))
    return parts + ([(_decimal(us, SECOND_US), "s")] if us else [])


def _refusal(value: object, advice: str) -> InvalidInput:
    shown = value if isinstance(value, timedelta) else repr(value)
    return InvalidInput(f"{str(shown)[:80]} is not a duration: {advice}")


def _advice(given: str) -> str:
    """Say why `given` is no duration, and the valid form nearest to it."""
    if not given:
        return f"it is empty; {FORMS}"
    if given[0] in "-+" and (corrected := _corrected(given[1:])):
        return f"{'a duration is positive' if given[0] == '-' else 'it needs no sign'}: write {corrected}"
    if clock := re.fullmatch(r"([0-9]{1,4}):([0-9]{1,2})(?::([0-9]{1,2}))?", given):
        hours, minutes, seconds = (int(number or 0) for number in clock.groups())
        if clock[3] is None:
            return f"it may be hours or minutes: write {hours}h{minutes}m or {hours}m{minutes}s"
        return f"a colon is for clock times: write {hours}h{minutes}m{seconds}s"
    comma = re.fullmatch(r"([0-9]+),([0-9]+\s*[a-z]*)", given, re.IGNORECASE)
    if comma and (corrected := _corrected(f"{comma[1]}.{comma[2]}")):
        return f"decimals take a point: write {corrected}"
    return _advice_on_units(given) or FORMS


def _advice_on_units(given: str) -> str | None:
    parts = list(_scan(given))
    for number, name in parts:
        vague = _VAGUE_UNITS.get(name.lower())
        if name == "M":
            return f"M may be a minute or a month: write {number}m for a minute or 30d for a month"
        if vague:
            return f"the length of a {vague} varies: write {'30d' if vague == 'month' else '365d'}"
        if name.lower() not in _UNIT_OF_NAME:
            close = difflib.get_close_matches(name.lower(), [n for n in _UNIT_OF_NAME if n.endswith("s")], n=1)
            unit = f"write {number} {close[0]}" if close else f"write {number}s, {number}m, {number}h or {number}d"
            return f"{name!r} is no unit: {unit}"
    if given.lower() in _UNIT_OF_NAME:
        return f"it has no number: write 1{_UNIT_OF_NAME[given.lower()]}"
    if last := re.fullmatch(rf"(.*[a-z])\s*({_NUMBER})", given, re.IGNORECASE):
        # The last number lacks its unit: the next smaller one is what was most likely meant.
        earlier = list(_scan(last[1]))
        units = list(_US_OF_UNIT)
        last_unit = _UNIT_OF_NAME.get(earlier[-1][1].lower()) if earlier else None
        smaller = units[units.index(last_unit) - 1] if last_unit and last_unit not in ("s", "ms") else ""
        corrected = _corrected(f"{last[1]} {last[2]}{smaller}" if smaller else last[1])
        if corrected:
            return f"the {last[2]} has no unit: write {corrected}"
    return None


def _corrected(given: str) -> str | None:
    """Return `given` in canonical form if it is a duration."""
    try:
        return format_duration(parse_duration(given))
    except InvalidInput:
        return None
