"""What is asked of a frame, as people give it: checked once, and said how it was read where that is not plain."""

from __future__ import annotations

import fnmatch
import operator
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from car_sched_nb.errors import InvalidInput, UnknownTask, nearest
from car_sched_nb.when import read_instant

_PATTERN = frozenset("*?[")
_LARGEST = 2**63 - 1  # of SQLite's integers


def several(given: Any, what: str) -> list[str]:
    """Return names that may have been given as one; refuse what is no text."""
    if isinstance(given, str):
        return [str(given)]
    names = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
    for name in names:
        if not isinstance(name, str):
            raise InvalidInput(f"{what} is text, or a list of texts, not {name!r}")
    return [str(name) for name in names]


def fitting(given: Any, known: Iterable[str]) -> set[str]:
    """Return the known names of tasks that were asked for: by a name, a pattern, or several of them."""
    there = sorted(set(known))
    found: set[str] = set()
    for name in several(given, "task"):
        if _PATTERN & {*name}:
            matching = [one for one in there if fnmatch.fnmatchcase(one, name)]
        else:
            matching = [one for one in there if one == name]
        if not matching:
            raise UnknownTask(name, there)
        found.update(matching)
    return found


def whole(given: Any, what: str) -> int:
    """Return a whole number from 0, or refuse it."""
    try:
        number = -1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidInput(f"{what} is a whole number from 0, not {given!r}")
    return min(number, _LARGEST)


def instant(given: Any, now_us: int, zone: str | None = None, *, ahead: bool = False) -> int:
    """Return an instant as `read_instant` reads it; warn where the clock shows it twice or never."""
    read = read_instant(given, now_us=now_us, zone=zone, ahead=ahead)
    if read.said is not None:
        _warn(read.said)
    return read.at_us


def period(
    since: Any, until: Any, now_us: int, zone: str | None = None, *, called: tuple[str, str] = ("since", "until")
) -> tuple[int | None, int | None]:
    """Return the two bounds of a period, None where it has none; refuse one that ends before it begins."""
    first, last = (None if one is None else instant(one, now_us, zone) for one in (since, until))
    if first is not None and last is not None and first > last:
        raise InvalidInput(f"{called[0]} ({since}) is after {called[1]} ({until}); swap them")
    return first, last


def one_of(given: str, known: Iterable[str], what: str) -> None:
    """Refuse a name that is none of the known ones, with the nearest."""
    names = [str(name) for name in known]
    if given not in names:
        near = nearest(given, names, none=";")
        raise InvalidInput(f"no {what} is named {given!r}{near} there are {', '.join(names)}")


def _warn(said: str) -> None:
    """Warn at the line outside this package that asked, of a magic the cell's, each time anew."""
    inner, frame = {__name__.partition(".")[0], "IPython"}, sys._getframe()  # noqa: SLF001 - `warnings` itself does so
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inner:
        frame = frame.f_back
    warnings.warn_explicit(said, UserWarning, frame.f_code.co_filename, frame.f_lineno)
