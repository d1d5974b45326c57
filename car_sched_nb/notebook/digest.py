"""What is stored for a notebook, in one line; said when the extension is loaded and when a namespace is pinned."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path

from car_sched_nb.frames.summary import sums
from car_sched_nb.notebook.session import Session
from car_sched_nb.store import records
from car_sched_nb.store.owners import reconcile
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import upcoming

_DAY_US = 86_400_000_000
_NEAR_US = 3_600_000_000
"""Stretches without a kernel that are nearer than that are told as one."""

_MOST_TASKS, _MOST_SLOTS = 100, 1_000  # each is counted at every `%load_ext`

# A gap's row is settled when a kernel is there again; until then its slots are only planned.
_GONE = """
    SELECT e.scheduled_at, e.finished_at FROM executions e INDEXED BY by_time JOIN tasks t ON t.id = e.task_id
    WHERE e.scheduled_at > ? AND t.namespace = ? AND t.deleted_at IS NULL AND e.status = 'missed'
        AND e.reason = 'no_owner'"""
_PASSED = """
    SELECT name FROM tasks WHERE namespace = ? AND deleted_at IS NULL AND enabled AND next_at <= ? ORDER BY next_at
    LIMIT ?"""


def digest(session: Session) -> str:
    """Return what is stored for this notebook and what became of it, or what a rename may have left behind."""
    store, space, now_us = session.store, session.namespace.name, time.time_ns() // 1000
    reconcile(store, now_us)
    ids = [row[0] for row in store.rows("SELECT id FROM tasks WHERE deleted_at IS NULL AND namespace = ?", space)]
    if not ids:
        return _orphans(session)
    totals = sums(store, ids, now_us - _DAY_US).values()
    passed, more, gone = _passed(store, space, now_us)
    missed = sum(one.missed for one in totals) + passed
    gone += [(first, last) for first, last in store.rows(_GONE, now_us - _DAY_US, space)]
    interrupted = sum(one.interrupted for one in totals)
    failed = sum(one.failed for one in totals) - interrupted
    bad = [f"{failed:,} failed"] * bool(failed) + [f"{interrupted:,} interrupted"] * bool(interrupted)
    bad += [f"{missed:,}{' or more' * more} missed{_stretches(gone, now_us)}"] * bool(missed)
    since = f"; in the last 24 h: {', '.join(bad)}" if bad else ""
    stored = f"{len(ids)} task{'s' * (len(ids) != 1)} stored here, not running{since}."
    return f"{stored} Run their cells, or %car arm, to start them."


def _passed(store: SqliteStore, space: str, now_us: int) -> tuple[int, bool, list[tuple[int, int]]]:
    """Return how many slots have passed that no kernel has settled, whether there are more, and from when to when."""
    count, more, gone = 0, False, []
    names = store.rows(_PASSED, space, now_us, _MOST_TASKS + 1)
    for (name,) in names[:_MOST_TASKS]:
        task = records.get(store, space, name)
        planned = islice(upcoming(task, max(now_us - _DAY_US, 0)), _MOST_SLOTS)
        found = [fire.at_us for fire in takewhile(lambda fire: fire.at_us <= now_us, planned)]
        if found:
            gone.append((found[0], now_us))
        count, more = count + len(found), more or len(found) == _MOST_SLOTS
    return count, more or len(names) > _MOST_TASKS, gone


def _stretches(gone: list[tuple[int, int]], now_us: int) -> str:
    """Say when there was no kernel, in local time."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(gone):
        if merged and first - merged[-1][1] <= _NEAR_US:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    if not merged:
        return ""
    first, last = max(merged, key=lambda one: one[1] - one[0])
    when = f"since {_clock(first, now_us)}" if last >= now_us else f"{_clock(first, now_us)}-{_clock(last, now_us)}"
    others = len(merged) - 1
    more = f" and {others} more time{'s' * (others > 1)}" if others else ""
    return f": kernel gone {when}{more}"


def _clock(at_us: int, now_us: int) -> str:
    at, now = (datetime.fromtimestamp(us / 1e6).astimezone() for us in (at_us, now_us))
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


def _orphans(session: Session) -> str:
    """Tell of notebooks that are gone and left tasks: this one may be one of them under its new name."""
    here = Path(session.namespace.name).parent
    sql = "SELECT DISTINCT namespace FROM tasks WHERE deleted_at IS NULL AND namespace LIKE '%.ipynb'"
    gone = [Path(name) for (name,) in session.store.rows(sql) if not Path(name).exists()]
    near = [path.name for path in gone if path.parent == here]
    if session.namespace.source != "notebook" or not near:
        return ""
    return f"{near[0]} is gone and left tasks; if this notebook is it under a new name: %car adopt {near[0]!r}"
