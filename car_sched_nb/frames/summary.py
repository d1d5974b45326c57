"""What became of each task since an instant, in a row each; and structured answers as columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from car_sched_nb.frames.plans import frame_of
from car_sched_nb.model import TaskStatus, to_us
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {
    "task": "str",
    "status": TaskStatus,
    "served": "int64",
    "failed": "int64",
    "missed": "int64",
    "skipped": "int64",
    "cancelled": "int64",
    "running": "int64",
    "first_error": "str",
    "last_error": "str",
    "last_error_at": "instant",
    "last_success": "instant",
    "median": "length",
    "tokens": "int64",
    "cost": "float64",
    "next_at": "instant",
}
_FAILED = "('failed', 'timed_out', 'interrupted')"
# An occurrence that failed and was served by a later attempt is served; a gap is as many slots as it stands for.
_SUMS = f"""
    SELECT e.task_id, sum(e.status = 'completed'),
        count(DISTINCT CASE WHEN e.status IN {_FAILED} AND NOT EXISTS (SELECT 1 FROM executions x
            WHERE x.task_id = e.task_id AND x.occurrence_id = e.occurrence_id AND x.status = 'completed')
            THEN e.occurrence_id END),
        sum(iif(e.status = 'missed', e.slots, 0)), sum(iif(e.status = 'skipped', e.slots, 0)),
        sum(e.status = 'cancelled'), sum(e.status IN ('waiting', 'running')),
        coalesce(sum(coalesce(e.tokens_in, 0) + coalesce(e.tokens_out, 0)), 0), total(e.cost)
    FROM executions e WHERE e.scheduled_at >= ?1 AND e.task_id IN (SELECT value FROM json_each(?2))
    GROUP BY e.task_id"""
_FAILURE = f"""
    SELECT coalesce(e.error, e.error_type), coalesce(e.finished_at, e.scheduled_at) FROM executions e INDEXED BY by_task
    WHERE e.task_id = ?1 AND e.scheduled_at >= ?2 AND e.status IN {_FAILED} ORDER BY e.seq"""
_SUCCESS = """
    SELECT e.finished_at FROM executions e INDEXED BY by_task
    WHERE e.task_id = ?1 AND e.status = 'completed' ORDER BY e.seq DESC LIMIT 1"""
_MEDIAN = """
    SELECT d FROM (SELECT e.duration AS d FROM executions e INDEXED BY by_task
        WHERE e.task_id = ?1 AND e.scheduled_at >= ?2 AND e.status = 'completed' ORDER BY e.duration)
    LIMIT 1 OFFSET ?3"""


def summary(store: SqliteStore, namespace: str | None, since_us: int) -> pd.DataFrame:
    """Return what became of each task's slots since an instant, indexed by task.

    `served` counts occurrences that completed, `failed` those that did not in the end, `missed` and `skipped` slots.
    Errors are their first lines; `median` is of the durations of what completed.
    """
    tasks = records.tasks(store, namespace)
    ids = msgspec.json.encode([task.id for task in tasks]).decode()
    sums = {row[0]: row[1:] for row in store.rows(_SUMS, since_us, ids)}
    rows = []
    for task in tasks:
        served, failed, missed, skipped, cancelled, running, tokens, cost = sums.get(task.id, (0,) * 8)
        first = store.rows(_FAILURE + " LIMIT 1", task.id, since_us) if failed else []
        last = store.rows(_FAILURE + " DESC LIMIT 1", task.id, since_us) if failed else []
        success = store.rows(_SUCCESS, task.id)
        middle = store.rows(_MEDIAN, task.id, since_us, (served - 1) // 2) if served else []
        rows.append(
            (
                *(task.name, task.status, served, failed, missed, skipped, cancelled, running),
                *(_line(first[0][0]) if first else None, _line(last[0][0]) if last else None),
                *(last[0][1] if last else None, success[0][0] if success else None),
                *(middle[0][0] if middle else None, tokens, cost),
                to_us(task.next_at) if task.next_at else None,
            )
        )
    return frame_of(_COLUMNS, rows).set_index("task")


def _line(text: str | None) -> str | None:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def answers(store: SqliteStore, ids: Iterable[str]) -> pd.DataFrame:
    """Return the answers of tasks that are JSON objects, their keys as columns after `task` and `scheduled_at`.

    Indexed by `execution_id`, oldest first. Answers that are no object are left out; one of a list or a plain value has
    the column `answer`. Nested keys are joined by a dot.
    """
    import pandas as pd

    sql = """SELECT e.execution_id, t.name, e.scheduled_at, e.answer FROM executions e JOIN tasks t ON t.id = e.task_id
        WHERE e.task_id IN (SELECT value FROM json_each(?)) AND e.status = 'completed' AND e.answer IS NOT NULL
        ORDER BY e.seq"""
    kept: list[tuple[str, str, int]] = []
    values: list[dict[str, Any]] = []
    for execution_id, task, at_us, answer in store.rows(sql, msgspec.json.encode(list(ids)).decode()):
        found = _structured(answer)
        if found is not None:
            kept.append((execution_id, task, at_us))
            values.append(found)
    frame = frame_of({"execution_id": "str", "task": "str", "scheduled_at": "instant"}, kept)
    columns = pd.json_normalize(values) if values else pd.DataFrame()
    clash = {name: f"{name}_answered" for name in columns.columns if name in frame.columns}
    return pd.concat([frame, columns.rename(columns=clash)], axis=1).set_index("execution_id")


def _structured(answer: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else {"answer": found}
