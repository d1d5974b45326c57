"""What is stored for a notebook, in one line; said when the extension is loaded and when a namespace is pinned."""

from __future__ import annotations

import time
from pathlib import Path

from car_sched_nb.notebook.session import Session
from car_sched_nb.store.owners import reconcile


def digest(session: Session) -> str:
    """Return what is stored for this notebook and what became of it, or what a rename may have left behind."""
    reconcile(session.store, time.time_ns() // 1000)
    space = session.namespace.name
    count = session.store.rows("SELECT count(*) FROM tasks WHERE deleted_at IS NULL AND namespace = ?", space)[0][0]
    if not count:
        return _orphans(session)
    sql = """SELECT e.status, sum(e.slots) FROM executions e JOIN tasks t ON t.id = e.task_id
        WHERE t.namespace = ? AND t.deleted_at IS NULL AND e.status IN ('failed', 'timed_out', 'interrupted', 'missed')
        AND coalesce(e.finished_at, e.scheduled_at) > ? GROUP BY e.status ORDER BY e.status"""
    day_ago = time.time_ns() // 1000 - 86_400_000_000
    bad = ", ".join(f"{slots} {status.replace('_', ' ')}" for status, slots in session.store.rows(sql, space, day_ago))
    since = f"; in the last 24 h: {bad}" if bad else ""
    stored = f"{count} task{'s' * (count != 1)} stored here, not running{since}."
    return f"{stored} Run their cells, or %car arm, to start them."


def _orphans(session: Session) -> str:
    """Tell of notebooks that are gone and left tasks: this one may be one of them under its new name."""
    here = Path(session.namespace.name).parent
    sql = "SELECT DISTINCT namespace FROM tasks WHERE deleted_at IS NULL AND namespace LIKE '%.ipynb'"
    gone = [Path(name) for (name,) in session.store.rows(sql) if not Path(name).exists()]
    near = [path.name for path in gone if path.parent == here]
    if session.namespace.source != "notebook" or not near:
        return ""
    return f"{near[0]} is gone and left tasks; if this notebook is it under a new name: %car adopt {near[0]!r}"
