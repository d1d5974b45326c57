"""What the machine of `test_machine` found, each as a plain claim."""

from __future__ import annotations

from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import SchedulerClosed
from car_sched_nb.model import Task, Trigger
from car_sched_nb.store.ops import Call
from car_sched_nb.store.owners import Owner
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Ear,
    Recorder,
    advance,
    agent,
    clock_at,
    cron,
    every,
    leap,
    now,
    once,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def test_a_gap_that_comes_again_after_the_clock_went_back_covers_all_of_its_slots(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1m", catchup="none"))
        await s.wait()
        await leap(s, clock, 10 * MINUTE + 30 * SECOND)
        await leap(s, clock, -10 * MINUTE - 30 * SECOND)
        while s.task("task").cursor != "0":
            await anyio.lowlevel.checkpoint()
        await s.wait()
        await leap(s, clock, HOUR + 30 * SECOND)
        assert s.task("task").cursor == "60"
        assert short(s.executions()) == [("completed", "0", 1), ("missed", "1", 60)]


async def test_slots_after_its_last_instant_are_not_skipped_by_a_pause(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1m", until=(now(clock) + 3 * MINUTE).isoformat()))
        await s.wait()
        await s.pause("task")
        await leap(s, clock, HOUR)
        await s.resume("task")
        assert short(s.executions()) == [("completed", "0", 1), ("skipped", "1", 3)]


async def test_a_task_that_follows_no_more_is_looked_at_no_more(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m", name="first"))
        await s.add(agent("task", Trigger.AFTER, after="first"))
        await advance(s, clock, MINUTE)
        await s.add(cron("0 * * * *"))
        await advance(s, clock, MINUTE)
        assert await s.cancel("first") == 0  # looks at everything that others may have changed
        assert s.task("task").cursor == "20261123T090100Z"


async def test_a_watched_path_means_nothing_to_a_task_that_watches_no_more(store: SqliteStore, tmp_path):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(agent("task", Trigger.FILE_WATCH, watch_path=str(tmp_path / "data.csv")))
        armed = s.engine.armed[s.task("task").id]
        await s.add(every("1h", first="next"))
        s._watcher.read(armed)
        assert [one for one in s._watcher._followed.values() if one.armed is armed] == []


async def test_what_waits_for_a_slot_of_a_schedule_that_was_changed_is_missed_when_its_owner_is_gone(
    store: SqliteStore,
):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(once(jitter="1h"))
        await ear.hears("claimed")
    clock.set(clock.now_us() + 2 * HOUR // timedelta(microseconds=1))
    async with running(store, recorder, clock=clock) as s:
        await s.define(cron("0 9 * * *"))
        await s.arm("task")
        await s.writer.write(Call(lambda db: None))  # with what was written before it
        assert short(s.executions()) == [("missed", "0", 1)]
    assert recorder.seen == []


async def test_what_a_dead_owner_left_to_be_tried_again_is_waited_for_and_not_asked_for_all_the_time(
    store: SqliteStore,
):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        task = await s.add(every("1m", first="next", on_crash="retry"))
        await leave_an_attempt_without_owner(s, task)
        settled = 0
        submit = s.writer.submit

        def counted(op, answer):
            nonlocal settled
            settled += not isinstance(op, Call)
            submit(op, answer)

        s.writer.submit = counted  # type: ignore[method-assign]
        await leap(s, clock, MINUTE + SECOND)
        await advance(s, clock, 2 * SECOND)
        assert recorder.ids == [f"{task.id}:manual:x#2", f"{task.id}:int:1"]
        assert settled < 10


async def test_what_follows_is_not_asked_for_all_the_time_while_another_owner_runs_it(store: SqliteStore):
    clock, held = clock_at(), Recorder(held=True)
    async with running(store, held, clock=clock) as one, running(store, clock=clock) as two:
        await one.add(agent("first"))
        await one.add(agent("task", Trigger.AFTER, after="first"))
        await two.run_now("first")
        await two.wait()
        await one.cancel_elsewhere("first")  # looks at what others have written
        await held.begun.wait()
        await two.run_now("first")
        await two.wait()
        await two.arm("task")
        written = two.writer.commits
        for _ in range(50):
            await two.writer.write(Call(lambda db: None))
        assert two.writer.commits - written < 55
        held.let_go()


async def leave_an_attempt_without_owner(s: Scheduler, task: Task) -> None:
    """Write what `let_go` leaves of a run whose task has `on_crash` retry."""
    sql = """INSERT INTO executions (execution_id, occurrence_id, task_id, trigger, slot, attempt, status, wait_reason,
        scheduled_at, slots, cause, version, runner, executor, not_before) VALUES (:o || '#2', :o, :id, 'manual', 'x',
        2, 'waiting', 'retry delay', 1, 1, 'retry', 0, 'agent', 'loop', 1)"""
    bound = {"o": f"{task.id}:manual:x", "id": task.id}
    await s.writer.write(Call(lambda db: db.execute(sql, bound).fetchall()))


async def test_a_backfill_does_not_walk_what_a_gap_holds_before_it(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1s", catchup="none"))
        await s.wait()
        await leap(s, clock, 3 * 365 * DAY)
        assert await s.backfill("task", now(clock) - timedelta(seconds=4), now(clock) - SECOND) == 4
        await s.wait()
        assert [e.slot for e in s.executions("task")][3:] == [str(3 * 365 * 86_400 - k) for k in (4, 3, 2, 1)]


async def test_what_is_asked_for_while_a_scheduler_is_left_does_not_outlive_it(store: SqliteStore):
    recorder = Recorder(held=True)
    refused: list[SchedulerClosed] = []

    async def serve() -> None:
        try:
            await s.run_once("task")
        except SchedulerClosed as error:
            refused.append(error)

    async with anyio.create_task_group() as asking:
        async with running(store, recorder, clock=clock_at()) as s:
            await s.add(every("1h", first="next"))
            await s.run_now("task")
            await recorder.begun.wait()
            asking.start_soon(serve)
            await anyio.wait_all_tasks_blocked()
        assert recorder.interrupted == len(recorder.seen)
        recorder.let_go()
    statuses = store.rows("SELECT status FROM executions WHERE status IN ('waiting', 'running')")
    assert statuses == []
    assert Owner(store, "later", 0).id
