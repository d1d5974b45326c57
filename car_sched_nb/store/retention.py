"""Removing old history by hand, without what admission needs to know."""

from __future__ import annotations

from pathlib import Path

import apsw

# Kept whatever its age: what is live and the attempts before it, the newest row of each task (its status, what follows
# it), its newest slot (which `run_once` must find served, also when something else ran since), the newest of all
# (numbers are never given again), the first row of each content of a watched path (its id must not come again), and
# slots that were run by a hand or filled in while the gap that they are in is kept.
_OLD = """
    WITH newest AS MATERIALIZED (SELECT task_id, max(scheduled_at) AS slot_at FROM executions
        WHERE attempt > 0 AND trigger != 'manual' GROUP BY task_id),
    gaps AS MATERIALIZED (SELECT task_id, min(scheduled_at) AS first_at FROM executions
        WHERE status IN ('missed', 'skipped') AND finished_at >= :before GROUP BY task_id)
    SELECT e.seq FROM executions e JOIN tasks t ON t.id = e.task_id
        LEFT JOIN newest ON newest.task_id = e.task_id LEFT JOIN gaps ON gaps.task_id = e.task_id
    WHERE t.namespace = :namespace AND e.finished_at < :before AND e.status NOT IN ('waiting', 'running')
        AND e.seq < (SELECT max(n.seq) FROM executions n WHERE n.task_id = e.task_id)
        AND e.seq < (SELECT max(n.seq) FROM executions n WHERE n.task_id = e.task_id AND n.attempt > 0)
        AND NOT (e.trigger != 'manual' AND e.attempt > 0 AND e.scheduled_at = newest.slot_at)
        AND NOT (e.trigger = 'file_watch' AND instr(replace(e.slot, 'r' || t.revision || '.', ''), '.') = 0)
        AND NOT EXISTS (SELECT 1 FROM executions l INDEXED BY live WHERE l.task_id = e.task_id
            AND l.status IN ('waiting', 'running') AND l.occurrence_id = e.occurrence_id)
        AND NOT (e.cause IN ('backfill', 'hand') AND e.trigger != 'manual'
            AND coalesce(gaps.first_at <= e.scheduled_at, FALSE))"""


def remove(db: apsw.Connection, namespace: str, before_us: int) -> tuple[int, list[Path]]:
    """Remove what ended before an instant; return how many executions, and the files of their outputs."""
    bound = {"namespace": namespace, "before": before_us}
    db.execute(f"CREATE TEMP TABLE old AS {_OLD}", bound)
    try:
        ids = "SELECT execution_id FROM executions WHERE seq IN (SELECT seq FROM old)"
        rows = db.execute(f"SELECT path, artifact FROM outputs WHERE execution_id IN ({ids})").fetchall()
        db.execute(f"DELETE FROM outputs WHERE execution_id IN ({ids})")
        db.execute("DELETE FROM executions WHERE seq IN (SELECT seq FROM old)")
        count = int(db.execute("SELECT count(*) FROM old").get)
    finally:
        db.execute("DROP TABLE temp.old")
    return count, [Path(str(path)) for row in rows for path in row if path]
