"""Charts of what ran and what is to come: `car.plot.timeline()`, drawn by plotly or, without it, as a still picture.

Each takes the filters of `car.history` and says nothing but what the store holds. Figures are plotly's own and can be
changed: `figure.update_layout(title="Loads")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from car_sched_nb.notebook.verbs import _now_us, _opened

if TYPE_CHECKING:
    from car_sched_nb.frames.history import Instant

__all__ = ["calendar", "durations", "graph", "plan", "timeline"]

Names = str | Sequence[str]


def timeline(
    task: Names | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: Names | None = None,
    runner: Names | None = None,
    limit: int | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Return what ran when: a row a task, a bar a run, by colour and symbol of its state; a pale band is an outage.

    The parameters are those of `car.history`. Times are local, what runs is drawn until now. More than 20,000 runs
    are cut to the newest, more than 60 tasks to those that ran last and one row for the others.
    """
    asked = {"task": task, "since": since, "until": until, "status": status, "runner": runner, "limit": limit}
    return _drawn("timeline", store, namespace, asked)


def durations(
    task: Names | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: Names | None = None,
    runner: Names | None = None,
    limit: int | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Return how long the runs of a task took, by when they began.

    The parameters are those of `car.history`. One line is the median of the completed runs around each, another what
    95 % of them stayed below; the slowest 5 % have a symbol of their own. Several tasks have a colour and a median
    each: the seven or eight with most runs, the others are grey.
    """
    asked = {"task": task, "since": since, "until": until, "status": status, "runner": runner, "limit": limit}
    return _drawn("durations", store, namespace, asked)


def calendar(
    task: Names | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: Names | None = None,
    runner: Names | None = None,
    limit: int | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Return a year by day: how often a task ran, and on which days it failed.

    The parameters are those of `car.history`; `since` is 365 days ago when it is not given. A day is one of this
    machine's zone, with as many hours as it has there.
    """
    asked = {"task": task, "since": since, "until": until, "status": status, "runner": runner, "limit": limit}
    return _drawn("calendar", store, namespace, asked)


def plan(
    days: float = 7,
    task: Names | None = None,
    runner: Names | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Return what is coming within some days, by task, and how many slots lie together.

    `task` and `runner` are those of `car.history`. Paused tasks are left out, and what time does not trigger. Of a task
    with very many slots the first are computed, and the rest is taken to go on like them.

    Raises
    ------
    InvalidInput
        For days that are not between 0 and 366.
    """
    return _drawn("plan", store, namespace, {"days": days, "task": task, "runner": runner})


def graph(
    task: Names | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    runner: Names | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Return the tasks that `--after` ties, in levels, with the critical path by the medians of their durations.

    `task` shows only whom these tasks follow and who follows them; `since`, `until` and `runner` choose the runs that
    are measured, as in `car.history`.
    """
    return _drawn("graph", store, namespace, {"task": task, "since": since, "until": until, "runner": runner})


def _drawn(name: str, store: str | None, namespace: str | None, asked: dict[str, Any]) -> Any:
    """Prepare a chart from the store that is meant, and draw it when the store is closed again."""
    from car_sched_nb import plots

    with _opened(store, namespace) as (opened, space):
        chart = getattr(plots, name)(opened, namespace=space, now_us=_now_us(), **asked)
    return plots.drawn(chart)
