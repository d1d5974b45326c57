"""How fast a run comes along, from what it has reported."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from car_sched_nb.output import clip
from car_sched_nb.runners.base import Progress

_KEPT = 30  # reports that a rate is of
_APART_US = 1_000_000
_NOTE = 300


class Pace:
    """The rate of one run over its newest reports; one that stands still becomes slower."""

    def __init__(self) -> None:
        self._reports: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._newest = (0, 0.0)

    def rate(self, done: float, now_us: int) -> float | None:
        """Take what is done now; return how much that is a second, or None while nobody can tell."""
        if not self._reports or done < self._newest[1]:
            self._reports.clear()  # it began, or began anew
            self._reports.append((now_us, done))
            self._newest = (now_us, done)
            return None
        if done > self._newest[1]:
            if self._newest[0] - self._reports[-1][0] >= _APART_US:
                self._reports.append(self._newest)
            self._newest = (now_us, done)
        since_us, first = self._reports[0]
        took_us, gained = now_us - since_us, self._newest[1] - first
        return gained * 1e6 / took_us if gained > 0 and took_us >= _APART_US else None


_MOST_LEFT_US = 1 << 53  # what a page can still count


class Paces:
    """The paces of what runs now, by execution id."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def shown(self, execution_id: str, progress: Progress | None, now_us: int) -> dict[str, Any] | None:
        """Return a run's progress with its rate and the time left."""
        if progress is None or not math.isfinite(progress.done):
            return None
        total = progress.total if progress.total is not None and math.isfinite(progress.total) else None
        pace = self._paces.get(execution_id)
        if pace is None:
            pace = self._paces[execution_id] = Pace()
        rate = pace.rate(progress.done, now_us)
        if rate is not None and not math.isfinite(rate):
            rate = None
        left = (total - progress.done) / rate * 1e6 if rate and total is not None else math.nan
        left_us = max(0, int(left)) if math.isfinite(left) and left < _MOST_LEFT_US else None
        return {
            "done": progress.done,
            "total": total,
            "note": clip(str(progress.note), _NOTE),
            "rate": rate,
            "left_us": left_us,
        }

    def forget(self, execution_id: str) -> None:
        """Let a run go that has ended."""
        self._paces.pop(execution_id, None)
