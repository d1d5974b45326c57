"""What the dashboard shows: a row for each task, from a snapshot and then from events. No widget here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from car_sched_nb.model import Task, Trigger
from car_sched_nb.output import clean, clip
from car_sched_nb.store.board import Last, Live, State, last_of
from car_sched_nb.triggers import words
from car_sched_nb.widget.notices import FAILED, Notices
from car_sched_nb.widget.progress import Paces
from car_sched_nb.widget.words import LINE, first_line, from_home

if TYPE_CHECKING:
    from car_sched_nb.engine.events import Event
    from car_sched_nb.engine.run import Run
    from car_sched_nb.engine.scheduler import Scheduler

_FOLLOWS = frozenset({Trigger.FILE_WATCH, Trigger.AFTER})  # planned though no instant is known
_DEFINED = frozenset({"added", "changed"})
_STANDS = frozenset({"added", "changed", "armed", "paused", "resumed", "disarmed"})  # the event has the task as it is
_ENDED = frozenset({"finished", "gap", "elsewhere"})

Row = dict[str, Any]


class _Line:
    """What is known of a task beside its definition."""

    __slots__ = ("failed", "last", "sent", "served", "task", "words")

    def __init__(self, task: Task, last: Row | None = None, failed: int = 0) -> None:
        self.take(task)
        self.last = last
        self.failed = failed
        self.served = task.run_count
        self.sent = 0
        """A digest of the row as every page has it; 0 when some may not."""

    def take(self, task: Task) -> None:
        self.task = task
        self.words = _words(
            task.trigger, task.schedule, task.tz, task.align, task.watch_path, task.after, task.when, task.fire_at
        )


@lru_cache(4096)
def _words(trigger: Trigger, schedule: str, tz: str, align: bool, watch: str, after: str, when: str, at: Any) -> str:
    """Return a trigger in words; ten thousand tasks have few triggers, and a cron expression takes its time."""
    what = Task("task", "", trigger, schedule, watch, align=align, tz=tz, after=after, when=when, fire_at=at)
    return clean(words(what))


class View:
    """The rows of one scheduler's namespace; on the engine's loop only."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lines: dict[str, _Line] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self.notices = Notices()
        self.paces = Paces()
        self.elsewhere: dict[str, str] = {}
        """Names of other owners that plan tasks of this namespace, by task id."""
        self.live_elsewhere: dict[str, Live] = {}
        """What others run of them, or nobody does yet."""
        self.failed_24h = 0
        self.kernel_blocked = False
        """Whether what works on the kernel's loop has to wait for a cell, also to be cancelled."""

    def fill(self, state: State) -> None:
        """Take what the store says."""
        last, failed = state.last, state.failed
        self._lines = {
            task.id: _Line(task, _last(last[task.id]) if task.id in last else None, failed.get(task.id, 0))
            for task in state.tasks
        }
        lines = self._lines.values()
        failing = [(line.task, line.last) for line in lines if line.last and line.last["status"] in FAILED]
        in_a_row = {line.task.id: line.task.failures for line in lines if line.task.failures}
        self.notices.begin(in_a_row, [one for one in failing if one[0].failures or one[1]["status"] == "interrupted"])
        for event in self._scheduler.telling.troubles.values():
            self.notices.hear(event)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def names(self) -> dict[str, str]:
        """Return the tasks' names by id."""
        return {task_id: line.task.name for task_id, line in self._lines.items()}

    def hear(self, event: Event) -> None:
        """Take an event; `take` later returns what it changed."""
        task_id, kind = event.task.id, event.kind
        self.notices.hear(event)
        if kind in _ENDED and event.execution_id is not None:
            self.paces.forget(event.execution_id)
        if kind == "deleted":
            self._remove(task_id)
            return
        line = self._lines.get(task_id)
        if kind in _STANDS:
            if line is None:
                line = self._lines[task_id] = _Line(event.task)
                self._gone.discard(task_id)
            line.take(event.task)
            if kind in _DEFINED:
                line.served = event.task.run_count
        if line is None:
            return
        if kind == "claimed":
            line.served += 1
        elif event.execution is not None and kind in ("finished", "gap"):
            line.last = _last(last_of(event.execution))
            if event.execution.status in FAILED:
                line.failed += 1
                self.failed_24h += 1
        self._changed.add(task_id)

    def touch_running(self, looked_at: set[str]) -> None:
        """Have the rows looked at again of what runs: no event tells of progress, or why something waits now."""
        runs = self._scheduler.running.runs
        self.touch(id_ for id_, of in runs.items() if any(run.progress is not None for run in of.values()))
        self.touch(looked_at & runs.keys())

    def touch(self, task_ids: Iterable[str]) -> None:
        """Have rows looked at again; those that did not change are not sent."""
        self._changed.update(task_id for task_id in task_ids if task_id in self._lines)

    def follow_others(self, armed: Mapping[str, str], live: Mapping[str, Live]) -> None:
        """Take who else plans tasks of this namespace, and what of it runs there."""
        before = self.elsewhere, self.live_elsewhere
        self.elsewhere = {task_id: clean(name) for task_id, name in armed.items()}
        self.live_elsewhere = dict(live)
        self.touch(task_id for task_id, _ in self.elsewhere.items() ^ before[0].items())
        self.touch(task_id for task_id, _ in self.live_elsewhere.items() ^ before[1].items())

    def renew(self, asked: Iterable[str], state: State) -> None:
        """Take what the store says of some tasks that others may have changed or run."""
        tasks = {task.id: task for task in state.tasks}
        for task_id in asked:
            task, line = tasks.get(task_id), self._lines.get(task_id)
            if task is None:
                if line is not None and task_id not in self._scheduler.engine.armed:
                    self._remove(task_id)
                continue
            last = _last(state.last[task_id]) if task_id in state.last else None
            if line is None:
                line = self._lines[task_id] = _Line(task, last)
                self._gone.discard(task_id)
            line.take(task)
            line.last, line.served = last, task.run_count
            self.notices.set(task_id, task.failures)
            self._changed.add(task_id)

    def _remove(self, task_id: str) -> None:
        if self._lines.pop(task_id, None) is not None:
            self._changed.discard(task_id)
            self._gone.add(task_id)

    @property
    def pending(self) -> bool:
        """Whether there may be anything to send."""
        return bool(self._changed or self._gone or self.notices.changed)

    def rest(self) -> None:
        """Keep nothing to send: nobody looks, and who comes back gets a snapshot."""
        self._changed.clear()
        self._gone.clear()

    def rows(self, most: int | None = None) -> Iterator[Row]:
        """Yield the rows of all tasks, or of the first so many; one that is sent to a single page is not settled."""
        for line in list(islice(self._lines.values(), most)):
            yield self._row(line)

    def unsettle(self) -> None:
        """Some page has rows that the others do not have: the next change of each is sent to all."""
        for line in self._lines.values():
            line.sent = 0

    def take(self) -> tuple[list[Row], list[str]]:
        """Return (rows that differ from what was sent, ids of tasks that are gone) since the last time."""
        rows = []
        for task_id in self._changed:
            line = self._lines[task_id]
            row = self._row(line)
            digest = hash(msgspec.json.encode(row))
            if digest != line.sent:
                line.sent = digest
                rows.append(row)
        gone = list(self._gone)
        self.rest()
        return rows, gone

    def head(self, blocked_since_us: int | None) -> Row:
        """Return the figures above the table."""
        scheduler = self._scheduler
        working = waiting = 0
        for runs in scheduler.running.runs.values():
            for run in runs.values():
                if run.idle:
                    waiting += 1
                else:
                    working += 1
        names = list(self.elsewhere.values())
        return {
            "store": from_home(scheduler.store.path),
            "namespace": clean(scheduler.namespace),
            "owner": clean(scheduler.owner_name),
            "running": working,
            "waiting": waiting,
            "scheduled": sum(1 for one in scheduler.engine.armed.values() if one.entry or one.task.trigger in _FOLLOWS),
            "failed_24h": self.failed_24h,
            "blocked_since_us": blocked_since_us,
            "elsewhere": [{"owner": name, "tasks": names.count(name)} for name in dict.fromkeys(names)],
        }

    def _row(self, line: _Line) -> Row:
        task = line.task
        armed = self._scheduler.engine.armed.get(task.id)
        fire = waits = None
        if armed is not None:
            task, fire, waits = armed.task, armed.next_fire, armed.waits
        runs = self._scheduler.running.runs.get(task.id)
        elsewhere = self.live_elsewhere.get(task.id) if runs is None else None
        return {
            "id": task.id,
            "name": task.name,
            "runner": clean(task.runner),
            "trigger": line.words,
            "kind": str(task.trigger),
            "tz": task.tz or None,
            "status": _status(task, armed is not None, bool(runs or elsewhere), fire is not None, line.last),
            "waits": clip(waits, LINE) if waits else None,
            "next_at_us": fire.at_us if fire else None,
            "enabled": task.enabled,
            "armed": armed is not None,
            "armed_in": self.elsewhere.get(task.id) if armed is None else None,
            "run": self._run(list(runs.values())) if runs else _elsewhere(elsewhere) if elsewhere else None,
            "last": line.last,
            "served": line.served,
            "failed": line.failed,
            "failures": self.notices.in_a_row.get(task.id, 0),
        }

    def _run(self, runs: list[Run]) -> Row:
        """Return what a row says of its runs in progress: of the oldest that works, else of the oldest."""
        run = next((run for run in runs if not run.idle), runs[0])
        held_up = self.kernel_blocked and run.cancel_status is not None and run.row.executor == "loop"
        return {
            "execution_id": run.execution_id,
            "state": run.state,
            "wait_reason": "kernel busy" if held_up else run.wait_reason,
            "started_at_us": run.started_us,
            "count": len(runs),
            "progress": self.progress(run),
        }

    def progress(self, run: Run) -> Row | None:
        """Return how far a run has come."""
        if run.progress is None:
            return None
        return self.paces.shown(run.execution_id, run.progress, self._scheduler.clock.monotonic_us())


def _status(task: Task, armed: bool, runs: bool, planned: bool, last: Row | None) -> str:
    if runs:
        return "running"
    if not task.enabled:
        return "disabled"
    if planned or (armed and task.trigger in _FOLLOWS):
        return "scheduled"
    if last is None or last["status"] in ("missed", "skipped", "cancelled"):
        return "pending"
    return "completed" if last["status"] == "completed" else "failed"


def _elsewhere(live: Live) -> Row:
    return {
        "execution_id": live.execution_id,
        "state": live.status,
        "wait_reason": live.wait_reason,
        "started_at_us": live.started_us,
        "count": live.runs,
        "progress": None,
    }


def _last(last: Last) -> Row:
    return {
        "execution_id": last.execution_id,
        "status": last.status,
        "finished_at_us": last.finished_us,
        "duration_us": last.duration_us,
        "text": first_line(last.error, last.error_type, last.answer),
        "reason": last.reason,
    }
