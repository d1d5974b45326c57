"""What became of each task since an instant, in a row each; and structured answers as columns."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from car_sched_nb.frames.plans import frame_of
from car_sched_nb.frames.scan import FEW
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
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM executions WHERE scheduled_at >= ? LIMIT ?)"
_ASKED = "WHERE e.scheduled_at >= ?1 AND {} IN (SELECT value FROM json_each(?2))"
_BY_TIME = f"executions e INDEXED BY by_time {_ASKED.format('+e.task_id')}"
_WHOLE = f"executions e NOT INDEXED {_ASKED.format('+e.task_id')}"
# An occurrence that failed and was served by a later attempt is served; a gap is as many slots as it stands for.
_NOT_SERVED = """NOT EXISTS (SELECT 1 FROM executions x INDEXED BY guard WHERE x.occurrence_id = e.occurrence_id
            AND x.status IN ('waiting', 'running', 'completed') AND x.status = 'completed')"""
_SUMS = f"""
    SELECT e.task_id, sum(e.status = 'completed'),
        count(DISTINCT CASE WHEN e.status IN {_FAILED} AND {_NOT_SERVED} THEN e.occurrence_id END),
        sum(iif(e.status = 'missed', e.slots, 0)), sum(iif(e.status = 'skipped', e.slots, 0)),
        sum(e.status = 'cancelled'), sum(e.status IN ('waiting', 'running')),
        coalesce(sum(coalesce(e.tokens_in, 0) + coalesce(e.tokens_out, 0)), 0), total(e.cost),
        count(DISTINCT CASE WHEN e.status = 'interrupted' AND {_NOT_SERVED} THEN e.occurrence_id END)
    FROM {{source}} GROUP BY e.task_id"""
_FAILURES = f"""
    SELECT f.task_id, coalesce(a.error, a.error_type), coalesce(z.error, z.error_type),
        coalesce(z.finished_at, z.scheduled_at)
    FROM (SELECT e.task_id, min(e.seq) AS first, max(e.seq) AS last FROM {{source}} AND e.status IN {_FAILED}
        GROUP BY e.task_id) AS f JOIN executions a ON a.seq = f.first JOIN executions z ON z.seq = f.last"""
_SUCCESS = """
    SELECT e.finished_at FROM executions e INDEXED BY by_task
    WHERE e.task_id = ?1 AND e.status = 'completed' ORDER BY e.seq DESC LIMIT 1"""
_MEDIAN = """
    SELECT e.duration FROM executions e INDEXED BY by_task
    WHERE e.task_id = ?1 AND e.scheduled_at >= ?2 AND e.status = 'completed' ORDER BY e.duration LIMIT 1 OFFSET ?3"""
_MEDIANS = """
    SELECT task_id, duration FROM (SELECT e.task_id, e.duration, count(*) OVER (PARTITION BY e.task_id) AS many,
            row_number() OVER (PARTITION BY e.task_id ORDER BY e.duration) AS place
        FROM {source} AND e.status = 'completed')
    WHERE place = (many + 1) / 2"""


class Sums(NamedTuple):
    """What became of a task's slots: how many of each."""

    served: int = 0
    failed: int = 0
    missed: int = 0
    skipped: int = 0
    cancelled: int = 0
    running: int = 0
    tokens: int = 0
    cost: float = 0.0
    interrupted: int = 0
    """Of `failed`."""


def sums(store: SqliteStore, ids: Sequence[str], since_us: int) -> dict[str, Sums]:
    """Return the sums of tasks since an instant, by their ids; a task without any row is not among them."""
    return _sums(store, ids, since_us, _are_few(store, since_us))


def _sums(store: SqliteStore, ids: Sequence[str], since_us: int, few: bool) -> dict[str, Sums]:
    return {id_: Sums(*row) for id_, row in _by_task(store, _SUMS, ids, since_us, few).items()}


def _by_task(store: SqliteStore, sql: str, ids: Sequence[str], since_us: int, few: bool) -> dict[str, tuple[Any, ...]]:
    """Return what a query finds of tasks, by their ids; `few`: the rows since then are found by their time."""
    found = store.rows(sql.format(source=_BY_TIME if few else _WHOLE), since_us, msgspec.json.encode(ids).decode())
    return {row[0]: row[1:] for row in found}


def _are_few(store: SqliteStore, since_us: int) -> bool:
    return bool(store.rows(_COUNT, since_us, FEW + 1)[0][0] <= FEW)


def summary(store: SqliteStore, namespace: str | None, since_us: int) -> pd.DataFrame:
    """Return what became of each task's slots since an instant, indexed by task.

    `served` counts occurrences that completed, `failed` those that did not in the end, `missed` and `skipped` slots.
    Errors are their first lines; `median` is of the durations of what completed.
    """
    tasks = records.tasks(store, namespace)
    ids = [task.id for task in tasks]
    few = _are_few(store, since_us)
    totals = _sums(store, ids, since_us, few)
    failures = _by_task(store, _FAILURES, ids, since_us, few)
    middles = _by_task(store, _MEDIANS, ids, since_us, few) if few else {}
    rows = []
    for task in tasks:
        served, failed, missed, skipped, cancelled, running, tokens, cost, _ = totals.get(task.id, Sums())
        first, last, last_at_us = failures.get(task.id, (None,) * 3) if failed else (None,) * 3
        success = store.rows(_SUCCESS, task.id)
        # Of many rows each task's are sorted by themselves: less than all at once.
        middle = middles.get(task.id)
        if served and middle is None:
            middle = store.rows(_MEDIAN, task.id, since_us, (served - 1) // 2)[0]
        rows.append(
            (
                *(task.name, task.status, served, failed, missed, skipped, cancelled, running),
                *(_line(first), _line(last), last_at_us, success[0][0] if success else None),
                *(middle[0] if middle else None, tokens, cost),
                to_us(task.next_at) if task.next_at else None,
            )
        )
    return frame_of(_COLUMNS, rows).set_index("task")


def _line(text: str | None) -> str | None:
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def answers(store: SqliteStore, ids: Iterable[str]) -> pd.DataFrame:
    """Return the answers of tasks that are objects, their keys as columns after `task` and `scheduled_at`.

    They are JSON, or a dictionary as Python shows it. Indexed by `execution_id`, oldest first. Those that are text are
    left out; one that is JSON of a list or a plain value has the column `answer`. Nested keys are joined by a dot.
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
        try:
            found = ast.literal_eval(answer)  # what a Python body ends with is kept as the notebook shows it
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if not isinstance(found, dict):
            return None
        found = {str(key): value for key, value in found.items()}
    return found if isinstance(found, dict) else {"answer": found}
