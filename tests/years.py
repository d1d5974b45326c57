"""Histories that would take days to make: tasks and executions written into a store, for charts."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from car_sched_nb.model import Status, Task, to_us
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

_BEGAN = frozenset(Status) - {Status.WAITING, Status.MISSED, Status.SKIPPED}


def define(store: SqliteStore, tasks: Iterable[Task], now: datetime, namespace: str = "default") -> None:
    """Store tasks, those that are followed before those that follow."""
    with store.transaction() as db:
        for task in tasks:
            records.define(db, task, namespace, to_us(now), None)


def write(store: SqliteStore, runs: Sequence[dict[str, Any]]) -> None:
    """Write executions: `task`, `at` (when it was planned and began), and what is not as usual of the others.

    The others: `took`, `status`, `version`, `slots`, `attempt`, `reason`, `answer`, `error`; `until`
    is when a gap ended.
    """
    with store.transaction() as db:
        ids = dict(db.execute("SELECT name, id FROM tasks"))
        columns = """execution_id, occurrence_id, task_id, trigger, slot, attempt, status, scheduled_at, started_at,
            finished_at, duration, slots, cause, reason, version, runner, executor, answer, error"""
        sql = f"INSERT INTO executions ({columns}) VALUES ({', '.join('?' * 19)})"
        db.executemany(sql, [_row(number, ids[run["task"]], run) for number, run in enumerate(runs)])


def _row(number: int, task_id: str, run: dict[str, Any]) -> tuple[Any, ...]:
    status = Status(run.get("status", Status.COMPLETED))
    at_us, took_us = to_us(run["at"]), run.get("took", timedelta()) // timedelta(microseconds=1)
    began = status in _BEGAN
    ended = began and status is not Status.RUNNING
    ended_us = at_us + took_us if ended else to_us(run["until"]) if "until" in run else None
    id_ = f"{task_id}:int:w{number}"
    return (
        *(id_, id_, task_id, "interval", str(number), run.get("attempt", 1), str(status), at_us),
        *(at_us if began else None, ended_us, took_us if ended else None),
        *(run.get("slots", 1), "slot", run.get("reason"), run.get("version", 0), "python", "thread"),
        *(run.get("answer"), run.get("error")),
    )
