"""What is read from the store because somebody looks closely: figures, executions, and all of one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio.to_thread

from car_sched_nb.errors import CarError
from car_sched_nb.model import LIVE
from car_sched_nb.store import board
from car_sched_nb.widget import details
from car_sched_nb.widget.following import Following, Stored
from car_sched_nb.widget.looks import Look, Message
from car_sched_nb.widget.timers import PERIOD_S, Timers

if TYPE_CHECKING:
    from car_sched_nb.engine.events import Event
    from car_sched_nb.engine.run import Run
    from car_sched_nb.engine.scheduler import Scheduler
    from car_sched_nb.widget.view import View

_KEPT = 500  # tasks whose figures are kept though nobody looks at them now
_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    """What is read in one go: whose figures, and what whoever looks had opened then."""

    stats: list[str]
    executions: list[tuple[Look, str, int]]
    details: list[tuple[Look, str]]


class Reading:
    """Reads what is looked at, in a thread and one thing after the other; on the engine's loop only.

    Parameters
    ----------
    looks
        Returns what all views show.
    start
        Starts a coroutine as a task of the loop.
    ready
        Called when there is something to send.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        view: View,
        timers: Timers,
        *,
        looks: Callable[[], list[Look]],
        start: Callable[[Coroutine[Any, Any, None]], None],
        ready: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._view = view
        self._timers = timers
        self._looks = looks
        self._start = start
        self._ready = ready
        self.rows: set[str] = set()
        """Ids of the tasks that somebody looks at."""
        self.stats: dict[str, Message] = {}
        """Figures by task id."""
        self._old: set[str] = set()
        """Ids of tasks whose figures are no longer right; they are read again with the next beat."""
        self._ended_meanwhile: set[str] = set()
        self._reading = False
        self._read_s = -PERIOD_S

    def look_at(self, rows: set[str]) -> None:
        """Take which tasks are looked at."""
        self.rows = rows
        if len(self.stats) > _KEPT:
            self.stats = {task_id: found for task_id, found in self.stats.items() if task_id in rows}

    def rest(self) -> None:
        """Keep nothing: nobody looks."""
        self.stats.clear()
        self._old.clear()
        self.rows = set()

    def hear(self, event: Event) -> None:
        """Take an event: something that is looked at may be due to be read again."""
        task_id, ended = event.task.id, event.kind in ("finished", "gap")
        if task_id not in self.rows:
            if ended:
                self.stats.pop(task_id, None)
            return
        if ended:
            (self._ended_meanwhile if self._reading else self._old).add(task_id)
        for look in self._looks():
            if look.task == task_id:
                look.executions_due = True
            if look.execution is not None and look.execution == event.execution_id:
                look.detail_due = True
                self.follow(look)

    def follow(self, look: Look) -> None:
        """Follow what an execution prints that runs or waits here."""
        run = self._run(look.execution) if look.output is None and look.execution is not None else None
        if run is not None:
            look.output = Following(run.execution_id, run.output)

    def _run(self, execution_id: str) -> Run | None:
        for runs in self._scheduler.running.runs.values():
            if execution_id in runs:
                return runs[execution_id]
        return None

    def beat(self) -> None:
        """Have read again what events do not tell of, or tell too often of."""
        for task_id in self._old:
            self.stats.pop(task_id, None)
        self._old.clear()
        for look in self._looks():
            look.executions_due = look.executions_due or look.live
            look.detail_due = look.detail_due or look.unended
        self.soon()

    def soon(self) -> None:
        """Read what is due, not more often than it can be sent."""
        if not self._reading:
            self._reading = True
            wait_s = max(0.0, self._read_s + PERIOD_S - self._timers.time())
            self._timers.call_later(wait_s, lambda: self._start(self._read()))

    async def _read(self) -> None:
        looks = self._looks()
        asked = _Asked(
            [task_id for task_id in self.rows if task_id in self._view and task_id not in self.stats],
            [(look, look.task, look.limit) for look in looks if look.executions_due and look.task is not None],
            [(look, look.execution) for look in looks if look.detail_due and look.execution is not None],
        )
        for look in looks:
            look.executions_due = look.detail_due = False
        try:
            if any(asked):
                await self._read_these(asked)
        except CarError:  # the store is in trouble, and whoever writes says so
            _log.debug("the dashboard could not read the store", exc_info=True)
            for look, task, _ in asked.executions:
                look.executions_due = look.executions_due or look.task == task
            for look, execution in asked.details:
                look.detail_due = look.detail_due or look.execution == execution
        finally:
            self._reading = False
            self._read_s = self._timers.time()
            self._old |= self._ended_meanwhile
            self._ended_meanwhile.clear()

    async def _read_these(self, asked: _Asked) -> None:
        store, namespace = self._scheduler.store, self._scheduler.namespace

        def read() -> tuple[dict[str, Message], list[list[board.Row]], list[board.Found | None]]:
            return (
                details.all_stats(store, asked.stats) if asked.stats else {},
                [board.executions(store, namespace, task, limit + 1) for _, task, limit in asked.executions],
                [details.read_detail(store, namespace, execution) for _, execution in asked.details],
            )

        stats, lists, found = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        self.stats |= stats
        for (look, task, limit), rows in zip(asked.executions, lists, strict=True):
            if (look.task, look.limit) == (task, limit):
                self._take_executions(look, rows)
        for (look, execution), one in zip(asked.details, found, strict=True):
            if look.execution == execution and one is not None:
                self._take_detail(look, one)
        self._ready()

    def _take_executions(self, look: Look, rows: list[board.Row]) -> None:
        runs = self._scheduler.running.runs.get(str(look.task), {})
        progress = self._view.progress
        shown = [details.execution_row(row, runs.get(row.execution_id), progress) for row in rows[: look.limit]]
        look.live = any(row.status in LIVE for row in rows)
        look.take_executions(shown, more=len(rows) > look.limit)

    def _take_detail(self, look: Look, found: board.Found) -> None:
        run = self._run(str(look.execution))
        look.take_detail(details.detail(found, run, self._view.progress))
        look.unended = found.row.status in LIVE
        self.follow(look)
        if look.output is None and not look.unended:
            look.output = Following(found.row.execution_id, Stored(found.text))
