"""What the dashboard shows: a row for each task, from a snapshot and then from events. No widget here."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from car_sched_nb.model import Execution, Status, Task, Trigger, to_us
from car_sched_nb.output import clip
from car_sched_nb.store import records
from car_sched_nb.triggers import words
from car_sched_nb.when import format_instant

if TYPE_CHECKING:
    from car_sched_nb.engine.events import Event
    from car_sched_nb.engine.run import Run
    from car_sched_nb.engine.scheduler import Scheduler

_DAY_US = 86_400_000_000
_FOLLOWS = frozenset({Trigger.FILE_WATCH, Trigger.AFTER})  # planned though no instant is known
_TEXT = 300  # characters of an answer or an error in a row
_MICROSECOND = timedelta(microseconds=1)
_WORDED = frozenset({"BodyFailed", "ExitCode", "Signal", "Interrupted"})  # what these say is a sentence already
_FAILED = frozenset({Status.FAILED, Status.TIMED_OUT, Status.INTERRUPTED})

Row = dict[str, Any]


class View:
    """The rows of one scheduler's namespace; on the engine's loop only."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._last = records.last_executions(scheduler.store, scheduler.namespace)
        self._tasks = {task.id: task for task in scheduler.tasks()}
        self._served = {task.id: task.run_count for task in self._tasks.values()}
        self._failed = records.failures(scheduler.store, scheduler.namespace)
        self._failed_24h = self._count_failed()
        self._changed: set[str] = set()
        self._gone: set[str] = set()

    def recount(self) -> None:
        """Count the failures of the last 24 h again: the oldest pass out of them."""
        self._failed_24h = self._count_failed()

    def _count_failed(self) -> int:
        since_us = self._scheduler.clock.now_us() - _DAY_US
        return records.failed_since(self._scheduler.store, self._scheduler.namespace, since_us)

    def hear(self, event: Event) -> None:
        """Take an event; `take` later returns what it changed."""
        task_id = event.task.id
        if event.kind == "deleted":
            self._tasks.pop(task_id, None)
            self._changed.discard(task_id)
            self._gone.add(task_id)
            return
        if event.kind in ("added", "changed", "armed", "paused", "resumed", "disarmed"):
            self._tasks[task_id] = event.task
            self._gone.discard(task_id)
        if event.execution is not None and event.kind in ("finished", "gap"):
            self._last[task_id] = event.execution
            if event.execution.status in _FAILED:
                self._failed[task_id] = self._failed.get(task_id, 0) + 1
                self._failed_24h += 1
        if event.kind == "claimed":
            self._served[task_id] = self._served.get(task_id, 0) + 1
        if task_id in self._tasks:
            self._changed.add(task_id)

    def touch_running(self) -> None:
        """Have the rows of what runs sent again: their progress is not told by events."""
        self._changed.update(task_id for task_id in self._scheduler.running.runs if task_id in self._tasks)

    def everything(self) -> list[Row]:
        """Return all rows."""
        return [self._row(task) for task in self._tasks.values()]

    def snapshot(self) -> list[Row]:
        """Return all rows; `take` then returns what changes after them."""
        self._changed.clear()
        self._gone.clear()
        return self.everything()

    def take(self) -> tuple[list[Row], list[str]]:
        """Return (changed rows, ids of tasks that are gone) since the last time."""
        rows = [self._row(self._tasks[task_id]) for task_id in self._changed]
        gone = list(self._gone)
        self._changed.clear()
        self._gone.clear()
        return rows, gone

    def head(self, store: str, blocked_since_us: int | None) -> Row:
        """Return the figures above the table."""
        engine = self._scheduler.engine
        return {
            "store": _from_home(store),
            "namespace": self._scheduler.namespace,
            "running": sum(len(runs) for runs in self._scheduler.running.runs.values()),
            "scheduled": sum(1 for armed in engine.armed.values() if armed.entry or armed.task.trigger in _FOLLOWS),
            "failed_24h": self._failed_24h,
            "blocked_since_us": blocked_since_us,
            "owner": self._scheduler.owner_name,
        }

    def _row(self, task: Task) -> Row:
        armed = self._scheduler.engine.armed.get(task.id)
        task = armed.task if armed else task
        fire = armed.next_fire if armed else None
        runs = self._scheduler.running.runs.get(task.id)
        last = self._last.get(task.id)
        return {
            "id": task.id,
            "name": task.name,
            "runner": task.runner,
            "trigger": words(task),
            "status": _status(task, bool(armed), bool(runs), bool(fire), last),
            "waits": armed.waits if armed else None,
            "next_at_us": fire.at_us if fire else None,
            "next_text": format_instant(fire.at_us, task.tz or None) if fire else "",
            "enabled": task.enabled,
            "armed": armed is not None,
            "run": _run(next(iter(runs.values()))) if runs else None,
            "last": _last(last) if last else None,
            "served": self._served.get(task.id, 0),
            "failed": self._failed.get(task.id, 0),
        }


def _from_home(path: str) -> str:
    home = str(Path.home())
    return "~" + path.removeprefix(home) if path.startswith(home + os.sep) else path


def _status(task: Task, armed: bool, runs: bool, planned: bool, last: Execution | None) -> str:
    if runs:
        return "running"
    if not task.enabled:
        return "disabled"
    if planned or (armed and task.trigger in _FOLLOWS):
        return "scheduled"
    if last is None or last.status in (Status.MISSED, Status.SKIPPED, Status.CANCELLED):
        return "pending"
    return "completed" if last.status is Status.COMPLETED else "failed"


def _run(run: Run) -> Row:
    progress = run.progress
    shown = {"done": progress.done, "total": progress.total, "note": clip(progress.note, _TEXT)} if progress else None
    return {
        "execution_id": run.execution_id,
        "state": run.state,
        "wait_reason": run.wait_reason,
        "started_at_us": run.started_us,
        "progress": shown,
    }


def _said(execution: Execution) -> str:
    """Return the error with its type, without which a KeyError's says nothing; a runner's own words stand alone."""
    said, kind = execution.error or "", execution.error_type
    return said if not said or kind in (None, said) or kind in _WORDED else f"{kind}: {said}"


def _last(execution: Execution) -> Row:
    text = (_said(execution) or execution.answer or "").strip()
    finished = execution.finished_at
    return {
        "status": execution.status,
        "finished_at_us": to_us(finished) if finished else None,
        "duration_us": execution.duration // _MICROSECOND if execution.duration is not None else None,
        "text": clip(text.partition("\n")[0], _TEXT),
        "reason": execution.reason,
    }
