"""Round places along an axis, and how they are written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from car_sched_nb.plots.chart import Axis

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # of a clock on the wall, as the values are
_SECOND, _HOUR, _DAY = 1e3, 3.6e6, 8.64e7
_STEPS = (
    *(0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
    *(_SECOND * n for n in (1, 5, 10, 30, 60, 300, 600, 1800)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14)),
)


def ticks(axis: Axis, most: int) -> list[tuple[float, str]]:
    """Return up to about so many (value, text) within an axis; those that it has itself, if any."""
    if axis.ticks or axis.kind in ("none", "rows"):
        return list(axis.ticks)
    if axis.kind == "time":
        return _times(axis.low, axis.high, most)
    if axis.kind == "log":
        powers = range(math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high)) + 1)
        return [(10.0**power, f"{10.0**power:g}") for power in powers]
    return _numbers(axis.low, axis.high, most)


def counts(top: float, most: int) -> Axis:
    """Return an axis of whole numbers from 0 to the first round one at or above `top`, without a title."""
    step = max(1.0, _step(top / most))
    last = max(1, math.ceil(top / step - 1e-9))
    return Axis("number", "", 0, last * step, [(n * step, f"{n * step:,.0f}") for n in range(last + 1)])


def _step(rough: float) -> float:
    """Return the first round number at or above one that is above 0."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough)


def _numbers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    step = _step((high - low) / most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:g}") for n in range(first, last + 1)]


def _times(low: float, high: float, most: int) -> list[tuple[float, str]]:
    step = next((one for one in _STEPS if (high - low) / one <= most), None)
    if step is None:
        return _months(low, high, most)
    begun = math.floor(low / _DAY) * _DAY if step < _DAY else math.floor(low / step) * step
    first = begun + math.ceil((low - begun) / step) * step
    found = [first + n * step for n in range(int((high - first) / step) + 1)]
    return [(at, _written(at, step, new_day=place == 0 or at % _DAY == 0)) for place, at in enumerate(found)]


def _written(at_ms: float, step: float, *, new_day: bool) -> str:
    at = _EPOCH + timedelta(milliseconds=at_ms)
    if step >= _DAY:
        return f"{at:%d %b}"
    clock = f"{at:%H:%M}" if step >= 6e4 else f"{at:%H:%M:%S}"
    if step < _SECOND:
        clock += f".{at:%f}".rstrip("0").rstrip(".")
    return f"{at:%d %b} {clock}" if new_day else clock


def _months(low: float, high: float, most: int) -> list[tuple[float, str]]:
    begun, ended = (_EPOCH + timedelta(milliseconds=one) for one in (low, high))
    months = (ended.year - begun.year) * 12 + ended.month - begun.month
    step = next(n for n in (1, 2, 3, 6, 12, 24, 60, 120, 1200, 12_000) if months / n <= most)
    found = []
    for month in range(begun.year * 12 + begun.month - 1, begun.year * 12 + begun.month + months):
        if month % step == 0:
            at = (datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) - _EPOCH).total_seconds() * 1000
            if low <= at <= high:
                found.append((at, f"{datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC):%b %Y}"))
    return found
