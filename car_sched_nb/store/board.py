"""What a dashboard asks the store.

Each answer is one JSON value: a query gives the GIL up at every row, and beside a computing cell waits for it as often.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from car_sched_nb.model import Execution, Task, to_us
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

NEWEST = 100
"""Executions of a task that its figures are of."""

_MICROSECOND = timedelta(microseconds=1)
_SHORT = 2000  # characters of an error or an answer: enough for its first line

_LAST = """
    SELECT json_group_array(json_array(n.id, e.execution_id, e.status, e.finished_at, e.duration,
        substr(e.error, 1, ?2), e.error_type, substr(e.answer, 1, ?2), e.reason))
    FROM tasks n JOIN executions e ON e.seq = (SELECT x.seq FROM executions x INDEXED BY by_task WHERE x.task_id = n.id
        AND x.status NOT IN ('waiting', 'running') ORDER BY x.seq DESC LIMIT 1)
    WHERE n.namespace = ?1 AND n.deleted_at IS NULL
        AND (?3 IS NULL OR n.id IN (SELECT value FROM json_each(?3)))"""
_FAILED = """
    SELECT json_group_array(json_array(id, n)) FROM (SELECT e.task_id AS id, count(*) AS n
        FROM executions e JOIN tasks t ON t.id = e.task_id
        WHERE e.status IN ('failed', 'timed_out', 'interrupted') AND t.namespace = ?1 GROUP BY e.task_id)"""
_STATS = """
    SELECT json_group_array(json_array(n.value, (SELECT json_group_array(json_array(id, s, d, at)) FROM
        (SELECT x.execution_id AS id, x.status AS s, x.duration AS d, coalesce(x.started_at, x.scheduled_at) AS at
            FROM executions x INDEXED BY by_task
            WHERE x.task_id = n.value AND x.status NOT IN ('waiting', 'running') ORDER BY x.seq DESC LIMIT ?2))))
    FROM json_each(?1) n"""
_ROW = """
    e.execution_id, e.seq, e.slot, e.slots, e.attempt, e.status, e.cause, e.reason, e.wait_reason, e.scheduled_at,
    e.started_at, e.finished_at, e.duration, {error}, e.error_type, {answer}, e.turns, e.tool_calls, e.tokens_in,
    e.tokens_out, iif(abs(e.cost) < 1e300, e.cost, NULL), e.model"""
_SHORT_ROW = _ROW.format(error="substr(e.error, 1, ?2)", answer="substr(e.answer, 1, ?2)")
_EXECUTIONS = f"""
    SELECT json_group_array(json(row)) FROM (SELECT json_array({_SHORT_ROW}) AS row
        FROM executions e INDEXED BY by_task JOIN tasks t ON t.id = e.task_id
        WHERE e.task_id = ?3 AND t.namespace = ?1 ORDER BY e.seq DESC LIMIT ?4)"""
_DETAIL = f"""
    SELECT json_array({_ROW.format(error="e.error", answer="e.answer")}), t.name, e.task_id, e.params, e.version,
        e.runner, e.executor, (SELECT o.name FROM owners o WHERE o.id = e.owner), e.upstream,
        u.text, u.traceback, u.path, u.artifact, u.transcript IS NOT NULL,
        iif(length(u.display) <= ?3, u.display, NULL),
        iif(length(u.display) > ?3, json_array_length(u.display), 0) + coalesce(u.marks ->> 'left', 0)
    FROM executions e JOIN tasks t ON t.id = e.task_id LEFT JOIN outputs u ON u.execution_id = e.execution_id
    WHERE e.execution_id = ?2 AND t.namespace = ?1"""
# Of several the oldest: SQLite takes the other columns from the row of the minimum.
_ELSEWHERE = """
    SELECT e.task_id, count(*), e.execution_id, e.status, e.wait_reason, e.started_at, min(e.seq)
    FROM executions e INDEXED BY live JOIN tasks t ON t.id = e.task_id
    WHERE e.status IN ('waiting', 'running') AND e.owner IS NOT ?2 AND t.namespace = ?1 AND t.deleted_at IS NULL
    GROUP BY e.task_id"""


class Last(NamedTuple):
    """How the newest execution of a task ended; its texts are only their first part."""

    execution_id: str
    status: str
    finished_us: int | None
    duration_us: int | None
    error: str | None
    error_type: str | None
    answer: str | None
    reason: str | None


class Ended(NamedTuple):
    """One execution, as a task's figures need it."""

    execution_id: str
    status: str
    duration_us: int | None
    at_us: int


class Row(NamedTuple):
    """One execution, as a list shows it."""

    execution_id: str
    seq: int
    slot: str
    slots: int
    attempt: int
    status: str
    cause: str
    reason: str | None
    wait_reason: str | None
    scheduled_us: int
    started_us: int | None
    finished_us: int | None
    duration_us: int | None
    error: str | None
    error_type: str | None
    answer: str | None
    turns: int | None
    tool_calls: int | None
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None
    model: str | None


class Found(NamedTuple):
    """One execution with all that is kept of it; `displays` is JSON, None when there is none or too much."""

    row: Row
    task: str
    task_id: str
    params: dict[str, Any]
    version: int
    runner: str
    executor: str
    owner: str | None
    upstream: list[str]
    text: str
    traceback: str | None
    path: str | None
    artifact: str | None
    has_transcript: bool
    displays: str | None
    displays_left: int
    """How many displays were too much to be read."""


class Live(NamedTuple):
    """What is in progress of a task: how many, and the oldest of them."""

    runs: int
    execution_id: str
    status: str
    wait_reason: str | None
    started_us: int | None


class State(NamedTuple):
    """A namespace as it stands: its tasks, and by their ids what became of them; `failed` is a count."""

    tasks: list[Task]
    last: dict[str, Last]
    failed: dict[str, int]


def state(store: SqliteStore, namespace: str) -> State:
    """Return the tasks of a namespace with how each last ended, and how often it failed in all."""
    failed = dict(_value(store, _FAILED, namespace))
    return _state(store, namespace, records.tasks(store, namespace), None)._replace(failed=failed)


def state_of(store: SqliteStore, namespace: str, task_ids: Iterable[str]) -> State:
    """Return the same of some tasks, without how often they failed in all."""
    ids = list(task_ids)
    found = [records.by_id(store, id_) for id_ in ids]
    tasks = [task for task in found if task is not None and task.namespace == namespace]
    return _state(store, namespace, tasks, msgspec.json.encode(ids).decode())


def _state(store: SqliteStore, namespace: str, tasks: list[Task], ids: str | None) -> State:
    last = {task_id: Last(*values) for task_id, *values in _value(store, _LAST, namespace, _SHORT, ids)}
    return State(tasks, last, {})


def ended(store: SqliteStore, task_ids: Iterable[str]) -> dict[str, list[Ended]]:
    """Return the newest executions of each task that have ended, newest first."""
    return {task_id: [Ended(*row) for row in rows] for task_id, rows in _newest(store, _STATS, task_ids)}


def executions(store: SqliteStore, namespace: str, task_id: str, limit: int) -> list[Row]:
    """Return the newest executions of a task of a namespace, newest first, with the first part of their texts."""
    return [Row(*row) for row in _value(store, _EXECUTIONS, namespace, _SHORT, task_id, limit)]


def detail(store: SqliteStore, namespace: str, execution_id: str, most: int) -> Found | None:
    """Return one execution of a namespace with its output; `most` is how many characters of displays are read."""
    rows = store.rows(_DETAIL, namespace, execution_id, most)
    if not rows:
        return None
    row, task, task_id, params, version, runner, executor, owner, upstream, *output = rows[0]
    text, traceback, path, artifact, has_transcript, shown, left = output
    return Found(
        row=Row(*msgspec.json.decode(row)),
        task=task,
        task_id=task_id,
        params=msgspec.json.decode(params) if params else {},
        version=version,
        runner=runner,
        executor=executor,
        owner=owner,
        upstream=msgspec.json.decode(upstream) if upstream else [],
        text=text or "",
        traceback=traceback,
        path=path,
        artifact=artifact,
        has_transcript=bool(has_transcript),
        displays=shown,
        displays_left=left or 0,
    )


def last_of(execution: Execution) -> Last:
    """Return how an execution ended, as the store would tell it."""
    ended_at, duration = execution.finished_at, execution.duration
    return Last(
        execution.execution_id,
        execution.status.value,
        to_us(ended_at) if ended_at else None,
        duration // _MICROSECOND if duration is not None else None,
        execution.error and execution.error[:_SHORT],
        execution.error_type,
        execution.answer and execution.answer[:_SHORT],
        execution.reason,
    )


def live_elsewhere(store: SqliteStore, namespace: str, owner: str) -> dict[str, Live]:
    """Return what runs or waits of the tasks of a namespace that another owner has, or nobody, by task id."""
    return {row[0]: Live(*row[1:6]) for row in store.rows(_ELSEWHERE, namespace, owner)}


def _newest(store: SqliteStore, sql: str, task_ids: Iterable[str]) -> list[tuple[str, list[Any]]]:
    ids = msgspec.json.encode(list(task_ids)).decode()
    found = _value(store, sql, ids, NEWEST)
    return [(task_id, msgspec.json.decode(rows) if isinstance(rows, str) else rows) for task_id, rows in found]


def _value(store: SqliteStore, sql: str, *bindings: Any) -> list[Any]:
    """Return what the one JSON value of a query holds."""
    found: list[Any] = msgspec.json.decode(store.rows(sql, *bindings)[0][0])
    return found
