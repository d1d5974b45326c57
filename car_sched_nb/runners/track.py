"""Progress of a body, told from inside its loops."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sized
from time import monotonic
from typing import TypeVar

from car_sched_nb.runners.base import current, current_runtime

T = TypeVar("T")
_APART_S = 0.1
_FAST_S = 0.001


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Tell the dashboard how far the work of this body has come; from any of its threads that has its context.

    Parameters
    ----------
    done, total
        In whatever is counted; without a total the dashboard shows how much is done, and how fast.
    note
        Some words beside the bar.

    Raises
    ------
    NotInATask
        Outside the body of a task.
    """
    current().progress(done, total, note)


def track(iterable: Iterable[T], total: float | None = None, note: str = "") -> Generator[T]:
    """Yield what an iterable yields, and tell the dashboard how far it has come, at most ten times a second.

    Outside the body of a task it only iterates.

    Parameters
    ----------
    total
        How many there will be; by default the iterable's length, if it has one.
    note
        Some words beside the bar.
    """
    runtime = current_runtime.get()
    if runtime is None:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    tell, done, due_s = runtime.progress, 0, 0.0
    look_at, looked_s, step = 0, 0.0, 1
    try:
        for one in iterable:
            if done == look_at:  # where they come fast, not each time: to look at the clock takes longer than they
                now_s = monotonic()
                step = min(2 * step, 64) if now_s - looked_s < _FAST_S else 1
                look_at, looked_s = done + step, now_s
                if now_s >= due_s:
                    tell(done, total, note)
                    due_s = now_s + _APART_S
            yield one
            done += 1
    finally:
        tell(done, total, note)
