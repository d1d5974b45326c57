"""Serving a task because somebody asks: its current slot, or an occurrence outside its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from car_sched_nb import files
from car_sched_nb.clock import Clock
from car_sched_nb.engine.armed import new_row, transaction
from car_sched_nb.engine.run import Run, row_execution
from car_sched_nb.engine.running import Running, kept_params
from car_sched_nb.engine.watch import cursor_of, parts_of
from car_sched_nb.errors import DefinitionChanged, InvalidInput, TaskPaused, UnknownTask
from car_sched_nb.model import LIVE, UNDONE, Cause, Execution, Status, Task, Trigger, to_us
from car_sched_nb.occurrence import execution_id, manual_slot, occurrence_id, slot_text
from car_sched_nb.store import records, retention, upstream
from car_sched_nb.store.ops import Settle
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.store.upstream import End
from car_sched_nb.store.writer import Writer
from car_sched_nb.triggers import next_fire, schedule_of

_TRIES = 10


class Serving:
    """Claims by hand; a claim that somebody else's change crossed is tried again."""

    def __init__(self, running: Running, store: SqliteStore, writer: Writer, clock: Clock) -> None:
        self._running = running
        self._store = store
        self._writer = writer
        self._clock = clock

    def _again(self, task: Task) -> Task:
        found = records.by_id(self._store, task.id)
        if found is None:
            raise UnknownTask(task.name)
        return found

    async def current(self, task: Task, params: Mapping[str, Any] | None) -> Run | Execution:
        """Claim the current slot of a task, or return the execution that serves it already."""
        for _ in range(_TRIES):
            if not task.enabled:
                raise TaskPaused(task.name)
            if task.trigger is Trigger.MANUAL or self._has_no_slot_yet(task) or self._running.used_up(task):
                return await self.by_hand(task, params)
            claimed = await self._try_current(task, params)
            if claimed is not None:
                return claimed
            for run in self._running.of(task.id):
                await run.wait_over()  # another occurrence is in progress
            task = self._again(task)
        raise DefinitionChanged(task.name)

    def _has_no_slot_yet(self, task: Task) -> bool:
        """Tell whether the first slot is still to come: serving it early would use it up."""
        if task.trigger is Trigger.AFTER:
            return not all(end.seq for end in self._ends(task))
        if task.trigger not in (Trigger.INTERVAL, Trigger.ONCE):
            return False
        plan, now_us = schedule_of(task), self._clock.now_us()
        fire = plan.current(now_us) if plan else None
        return fire is not None and fire.at_us > now_us

    def _ends(self, task: Task) -> list[End]:
        return upstream.ends(self._store.rows, task, task.namespace) if task.trigger is Trigger.AFTER else []

    async def _try_current(self, task: Task, params: Mapping[str, Any] | None) -> Run | Execution | None:
        now_us = self._clock.now_us()
        ends = self._ends(task)
        slot, at_us, expected, cursor = _current_of(task, ends) if ends else await self._current(task, now_us)
        text = slot_text(task.revision, slot)
        occurrence = occurrence_id(task.id, task.trigger, text)
        tried = records.attempts(self._store, occurrence)
        served = [e for e in tried if e.status in LIVE or e.status is Status.COMPLETED]
        if served:
            return served[-1]
        if not tried and self._was_removed(task, at_us):
            return await self.by_hand(task, params)
        attempt = len(tried) + 1
        run = self._running.new_run(
            task,
            (text, occurrence, execution_id(occurrence, attempt)),
            at_us,
            now_us,
            attempt=attempt,
            cause=Cause.RETRY if tried else Cause.HAND,
            params=params,
            upstream=upstream.as_json(ends) if ends else None,
        )
        if await self._running.claim(run, self._claim_op(task, run, now_us, expected, cursor)):
            return run
        return None

    def _was_removed(self, task: Task, at_us: int) -> bool:
        """Tell whether a planned slot was settled and its row is gone: the clock was ahead then."""
        removed_us = retention.removed_to(self._store, task.id) if schedule_of(task) else None
        return removed_us is not None and at_us <= removed_us

    async def _current(self, task: Task, now_us: int) -> tuple[str, int, str | None, str | None]:
        """Return (slot, planned instant, expected cursor, new cursor); the cursor moves when no slot is left out."""
        if task.trigger is Trigger.FILE_WATCH:
            digest = await anyio.to_thread.run_sync(partial(files.digest, task.watch_path))
            old, counter = parts_of(task.cursor)
            if digest == old:
                return self._served_slot(task, digest, counter), now_us, None, None
            moved = cursor_of(digest, counter + 1)
            return self.file_slot(task, digest, counter + 1), now_us, task.cursor, moved
        plan = schedule_of(task)
        assert plan is not None
        fire = plan.current(now_us)
        if fire is None:
            raise DefinitionChanged(task.name)
        following = plan.next_fire(task.cursor)
        if following is not None and following.slot == fire.slot:
            return fire.slot, fire.at_us, task.cursor, fire.slot
        return fire.slot, fire.at_us, None, None

    def _claim_op(self, task: Task, run: Run, now_us: int, expected: str | None, cursor: str | None) -> Settle:
        plan = schedule_of(task)
        served = msgspec.structs.replace(task, run_count=task.run_count + 1)
        following = next_fire(served, plan, cursor) if cursor is not None else None
        return transaction(
            task,
            now_us,
            expected=expected,
            cursor=cursor,
            next_at=following.at_us if following else None,
            by_hand=run.row.cause == Cause.HAND and cursor is None,
            claim=run.row,
        )

    async def by_hand(self, task: Task, params: Mapping[str, Any] | None) -> Run | Execution:
        """Claim a new occurrence outside the grid, or return the skipped execution when one is in progress."""
        for _ in range(_TRIES):
            now_us = self._clock.now_us()
            slot = manual_slot()
            occurrence = occurrence_id(task.id, Trigger.MANUAL, slot)
            ids = (slot, occurrence, execution_id(occurrence, 1))
            if used_up := self._running.used_up(task):
                return await self._skip_by_hand(task, ids, params, now_us, "budget", used_up)
            run = self._running.new_run(
                task,
                ids,
                now_us,
                now_us,
                cause=Cause.HAND,
                trigger=Trigger.MANUAL,
                params=params,
                wait=self._wait(task),
            )
            if await self._running.claim(run, self._claim_op(task, run, now_us, None, None)):
                return run
            again = self._again(task)
            if (again.revision, again.version) != (task.revision, task.version):
                task = again
            elif task.overlap not in ("queue", "replace") or not self._running.of(task.id):
                return await self._skip_by_hand(again, ids, params, now_us, "overlap")
            elif task.overlap == "replace":
                await self._replace(task)
        raise DefinitionChanged(task.name)

    async def once_more(self, ended: Execution, task: Task) -> Run:
        """Claim the next attempt at an occurrence whose last one did not complete."""
        if ended.status not in UNDONE or not ended.attempt:
            raise InvalidInput(f"it is {ended.status.value}, and nothing of it failed; run the task: run_now")
        for _ in range(_TRIES):
            if used_up := self._running.used_up(task):
                raise InvalidInput(used_up)
            now_us, tried = self._clock.now_us(), records.attempts(self._store, ended.occurrence_id)
            if (newest := tried[-1]).status not in UNDONE:
                raise InvalidInput(f"its attempt {newest.attempt} is {newest.status.value} already")
            attempt = newest.attempt + 1
            run = self._running.new_run(
                task,
                (ended.slot, ended.occurrence_id, execution_id(ended.occurrence_id, attempt)),
                to_us(ended.scheduled_at),
                now_us,
                attempt=attempt,
                cause=Cause.HAND,  # asked for: neither a pause nor a changed definition holds it up
                trigger=ended.trigger,
                params=ended.params,
                upstream=msgspec.json.encode(ended.upstream).decode() if ended.upstream else None,
                wait=self._wait(task),
            )
            if await self._running.claim(run, self._claim_op(task, run, now_us, None, None)):
                return run
            again = self._again(task)
            if records.attempts(self._store, ended.occurrence_id)[-1].attempt >= attempt:
                continue  # somebody else has claimed it: the next look says how it stands
            if (again.revision, again.version) != (task.revision, task.version):
                task = again
            elif task.overlap == "replace" and self._running.of(task.id):
                await self._replace(task)
            else:
                raise InvalidInput(f"{task.name} is running; cancel it, or try again when it has ended")
        raise DefinitionChanged(task.name)

    def _wait(self, task: Task) -> tuple[str, None] | None:
        """Return what a run by hand waits for: the queue, where its task has one and something of it goes on."""
        return ("queue", None) if task.overlap == "queue" and self._running.of(task.id) else None

    async def _replace(self, task: Task) -> None:
        """Stop what runs of a task here; return when it has ended."""
        runs = self._running.of(task.id)
        for run in runs:
            self._running.stop(run, Status.CANCELLED, "replaced")
        for run in runs:
            await run.wait_over()

    async def _skip_by_hand(
        self,
        task: Task,
        ids: tuple[str, str, str],
        params: Mapping[str, Any] | None,
        now_us: int,
        reason: str,
        error: str | None = None,
    ) -> Execution:
        row = new_row(
            task,
            ids,
            params=kept_params({**task.params, **(params or {})}),
            status=Status.SKIPPED,
            scheduled_at=now_us,
            finished_at=now_us,
            cause=Cause.HAND,
            trigger=Trigger.MANUAL,
            reason=reason,
            error=error,
        )
        await self._writer.write(transaction(task, now_us, by_hand=True, gap=row))
        execution = row_execution(task, row)
        self._running.tell("gap", task, execution=execution)
        return execution

    def _served_slot(self, task: Task, digest: str, counter: int) -> str:
        """Return the slot that the content last settled was served by."""
        again = f"{digest}.{counter}"
        occurrence = occurrence_id(task.id, task.trigger, slot_text(task.revision, again))
        return again if records.attempts(self._store, occurrence) else digest

    def file_slot(self, task: Task, digest: str, counter: int) -> str:
        """Return the slot of a content; one that comes back is told from the first by its counter."""
        occurrence = occurrence_id(task.id, task.trigger, slot_text(task.revision, digest))
        known = records.attempts(self._store, occurrence) or retention.was_removed(self._store, occurrence)
        return f"{digest}.{counter}" if known else digest


def _current_of(task: Task, ends: Sequence[End]) -> tuple[str, int, str | None, str | None]:
    """Return (slot, instant, expected cursor, new cursor) of a task that follows others, as `_current` does."""
    moves = upstream.are_newer(ends, task.cursor)
    at_us = max(end.finished_us for end in ends)
    return upstream.slot_of(ends), at_us, task.cursor if moves else None, upstream.cursor_of(ends) if moves else None
