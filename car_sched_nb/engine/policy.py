"""The numbers behind the policies: when a next attempt comes, and how late a jitter lets a slot begin. Pure."""

from __future__ import annotations

import hashlib

from car_sched_nb.durations import parse_duration
from car_sched_nb.model import Task

RETRY_DELAY_US = 10_000_000
LONGEST_DELAY_US = 3_600_000_000
"""Delays double up to an hour, or to what was asked for when that is longer."""

_SPREAD = 0.1


def retry_delay_us(task: Task, execution_id: str, attempt: int) -> int:
    """Return how long to wait after a failed attempt, in microseconds: doubled each time, up to 10 % more by chance.

    The chance is a hash of the execution's id, so that it is the same for whoever plans it.
    """
    first = parse_duration(task.retry_delay, allow_zero=True) if task.retry_delay else RETRY_DELAY_US
    delay: int = min(first << min(attempt - 1, 40), max(first, LONGEST_DELAY_US))
    return delay + int(delay * _SPREAD * _share(execution_id))


def jitter_us(task: Task, occurrence_id: str) -> int:
    """Return how much later than its instant an occurrence begins, in microseconds; 0 without `jitter`."""
    return int(parse_duration(task.jitter, allow_zero=True) * _share(occurrence_id)) if task.jitter else 0


def _share(text: str) -> float:
    """Return a number from 0 up to 1 that belongs to a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / (1 << 48)
