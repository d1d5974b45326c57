"""Backfill: slots that were missed or skipped run after all, under their own ids, so that asking twice runs once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import anyio
import anyio.to_thread

from car_sched_nb.engine.armed import transaction
from car_sched_nb.engine.core import Engine
from car_sched_nb.engine.run import Run
from car_sched_nb.engine.running import Running
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Cause, Execution, Status, Task, Trigger, to_us
from car_sched_nb.occurrence import bare_slot, execution_id, occurrence_id, slot_text
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import Fire, series

MOST_OF_A_ROW = 1000
"""Slots that one click may start: more are asked for by their period."""
_AT_A_TIME = 32  # of a task whose runs may overlap
_AGAIN_S = 0.25
PLANNED = (Trigger.INTERVAL, Trigger.CRON, Trigger.ONCE)


class Backfill:
    """The slots of one task that are run after all, oldest first."""

    def __init__(self, engine: Engine, running: Running, store: SqliteStore, task: Task) -> None:
        if task.trigger not in PLANNED:
            raise InvalidInput(f"{task.name} has no planned slots to fill in; run it now: %car run {task.name}")
        if missing := running.runner_of(task).missing(task):
            # A slot that fails for it would be used up.
            raise InvalidInput(f"{task.name} cannot run yet: {missing}")
        if used_up := running.used_up(task):
            raise InvalidInput(used_up)
        self.task = task
        self.scope = anyio.CancelScope()
        self._engine = engine
        self._running = running
        self._store = store
        self._slots: list[Fire] = []

    async def find(self, start_us: int, end_us: int) -> int:
        """Find the slots between two instants that were missed or skipped and not run since; return how many."""
        return await anyio.to_thread.run_sync(lambda: self._take(self._gaps(start_us, end_us)))

    async def find_gap(self, row: Execution) -> int:
        """Find the slots that one `missed` or `skipped` row stands for and that were not run since; return how many."""
        at_us = to_us(row.scheduled_at)
        return await anyio.to_thread.run_sync(lambda: self._take(self._gap(row.slot, row.slots, at_us)))

    def _take(self, found: Iterator[Fire]) -> int:
        self._slots = [fire for fire in found if self._attempt(fire) is not None]
        return len(self._slots)

    def _gaps(self, start_us: int, end_us: int) -> Iterator[Fire]:
        sql = """SELECT slot, slots, scheduled_at FROM executions WHERE task_id = ? AND status IN ('missed', 'skipped')
            AND cause = 'slot' ORDER BY seq"""
        for slot, slots, at_us in self._store.rows(sql, self.task.id):
            if at_us <= end_us:
                for fire in self._gap(slot, slots, at_us, start_us):
                    if fire.at_us > end_us:
                        break
                    yield fire

    def _gap(self, slot: str, slots: int, at_us: int, start_us: int = 0) -> Iterator[Fire]:
        # A schedule that was changed since has other slots: what its predecessors missed cannot be planned again.
        planned = bare_slot(self.task.revision, slot)
        if planned is not None:
            yield from series(self.task, Fire(planned, at_us), slots, start_us)

    def _attempt(self, fire: Fire) -> int | None:
        """Return the number that a slot's attempt has, or None when it was served."""
        tried = records.attempts(self._store, self._occurrence(fire))
        return None if any(one.status is not Status.MISSED for one in tried) else len(tried) + 1

    def _occurrence(self, fire: Fire) -> str:
        return occurrence_id(self.task.id, self.task.trigger, slot_text(self.task.revision, fire.slot))

    async def run(self) -> None:
        """Run them, one after the other unless the task's runs may overlap; ends early when the task is changed."""
        going: deque[Run] = deque()
        most = _AT_A_TIME if self.task.overlap == "allow" else 1
        with self.scope:
            for fire in self._slots:
                while len(going) >= most:
                    await going.popleft().wait_over()
                run = await self._claim(fire)
                if run is not None:
                    going.append(run)
                elif not self._goes_on():
                    return
            for run in going:
                await run.wait_over()

    def _goes_on(self) -> bool:
        stored = records.by_id(self._store, self.task.id)
        if stored is None or stored.revision != self.task.revision or self._running.closing or self.scope.cancel_called:
            return False
        self.task = stored
        return self._running.used_up(stored) is None

    async def _claim(self, fire: Fire) -> Run | None:
        """Claim a slot as soon as nothing is in its way; None when somebody else has served it."""
        while self._goes_on() and (attempt := self._attempt(fire)) is not None:
            task, now_us = self.task, self._engine.now_us()
            text, occurrence = slot_text(task.revision, fire.slot), self._occurrence(fire)
            run = self._running.new_run(
                task,
                (text, occurrence, execution_id(occurrence, attempt)),
                fire.at_us,
                now_us,
                attempt=attempt,
                cause=Cause.BACKFILL,
            )
            op = transaction(task, now_us, by_hand=True, claim=run.row)
            if await self._running.claim(run, op):
                if self.scope.cancel_called:  # while the claim was being written
                    self._running.stop(run, Status.CANCELLED)
                return run
            with anyio.move_on_after(_AGAIN_S):  # another owner's run ends without a word here
                await self._engine.change()
        return None


def bounds_us(start: int | None, end: int | None, task: Task, now_us: int) -> tuple[int, int]:
    """Return a period's bounds; open ones are the task's creation and now.

    Raises
    ------
    InvalidInput
        When it ends before it starts.
    """
    assert task.created_at is not None
    start_us = to_us(task.created_at) if start is None else start
    end_us = now_us if end is None else min(end, now_us)
    if end_us < start_us:
        raise InvalidInput("the backfill ends before it starts; --start comes first, and --end is not in the future")
    return start_us, end_us
