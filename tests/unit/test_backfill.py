"""Slots that were missed or skipped run after all: under their own ids, once, whoever asks and how often."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput, UnknownTask
from car_sched_nb.model import Cause, Task
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    SECOND,
    Script,
    agent,
    attempts,
    clock_at,
    come_true,
    cron,
    every,
    jump,
    once,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def filled(scheduler: Scheduler) -> None:
    """Return when its backfills have ended."""
    while scheduler._backfills:
        await scheduler.engine.change()
    await rest(scheduler)


async def with_a_gap(s: Scheduler, task: Task, gap: timedelta = 10 * HOUR + MINUTE) -> None:
    """Define a task and arm it so late that its passed slots are one missed row."""
    await s.define(task)
    await jump(gap, s)
    await s.arm("task")
    await rest(s)


async def test_missed_slots_run_oldest_first_under_their_own_ids(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        assert short(s.executions("task")) == [("missed", "0", 11)]
        assert await s.backfill("task") == 11
        await filled(s)
        assert script.slots == [str(k) for k in range(11)]
        rows = s.executions("task")[1:]
        assert {(e.cause, e.status, e.attempt) for e in rows} == {(Cause.BACKFILL, "completed", 1)}
        assert [e.scheduled_at for e in rows] == [MONDAY + k * HOUR for k in range(11)]
        assert rows[3].execution_id == f"{rows[3].task_id}:int:3"


async def test_asked_again_a_backfill_finds_nothing(store: SqliteStore):
    script = Script(lambda o: o.slot == "4")
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        await s.backfill("task")
        await s.backfill("task")
        await filled(s)
        assert await s.backfill("task") == 0
        assert script.slots == [str(k) for k in range(11)]


async def test_a_period_bounds_what_is_filled_in_with_both_ends(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        assert await s.backfill("task", MONDAY + 2 * HOUR, MONDAY + 4 * HOUR) == 3
        await filled(s)
        assert await s.backfill("task", "3h", None) == 3  # the last three hours
        await filled(s)
        assert script.slots == ["2", "3", "4", "8", "9", "10"]


async def test_skipped_and_paused_slots_are_filled_in_too(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(every("1m"))
        await pass_time(2 * MINUTE, s)
        script.let_go()
        await rest(s)
        await s.pause("task")
        await pass_time(2 * MINUTE, s)
        await s.resume("task")
        await rest(s)
        assert await s.backfill("task") == 4
        await filled(s)
        assert script.slots == ["0", "1", "2", "3", "4"]


async def test_two_schedulers_asked_at_once_fill_in_each_slot_once(path: Path):
    script = Script()
    async with (
        running(str(path), script, clock=clock_at()) as one,
        running(str(path), script, clock=clock_at()) as two,
    ):
        await with_a_gap(one, every("1h", catchup="none", overlap="allow"), 30 * HOUR)
        await jump(30 * HOUR, two)
        async with anyio.create_task_group() as group:
            for s in (one, two, one, two):
                group.start_soon(s.backfill, "task")
        await filled(one)
        await filled(two)
        assert sorted(map(int, script.slots)) == list(range(31))


async def test_two_schedulers_fill_in_one_at_a_time_by_default(path: Path):
    script = Script()
    async with (
        running(str(path), script, clock=clock_at()) as one,
        running(str(path), script, clock=clock_at()) as two,
    ):
        await with_a_gap(one, every("1h", catchup="none"), 5 * HOUR + MINUTE)
        await jump(5 * HOUR + MINUTE, two)
        await one.backfill("task")
        await two.backfill("task")
        await filled(one)
        await filled(two)
        assert sorted(script.slots) == ["0", "1", "2", "3", "4", "5"]
        rows = sorted((e.started_at, e.finished_at) for e in one.executions("task")[1:])
        assert len(rows) == 6


async def test_runs_that_may_overlap_are_filled_in_together(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none", overlap="allow"))
        await s.backfill("task")
        await come_true(lambda: script.inside == 11)
        script.let_go()
        await filled(s)


async def test_a_backfill_waits_for_the_run_that_goes_on_and_slots_go_their_way(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"), 2 * HOUR + MINUTE)
        await s.run_now("task")
        await rest(s)
        await s.backfill("task")
        await rest(s)
        assert len(script.seen) == 1
        script.let_go()
        await filled(s)
        assert script.slots[1:] == ["0", "1", "2"]
        await pass_time(HOUR, s)
        assert script.slots[-1] == "3"


async def test_cancel_ends_a_backfill_and_what_was_left_can_be_asked_for_again(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"), 4 * HOUR + MINUTE)
        await s.backfill("task")
        await script.begun.wait()
        assert await s.cancel("task") == 1
        await filled(s)
        assert attempts(s.executions("task"))[1:] == [("0", 1, "cancelled")]
        script.let_go()
        assert await s.backfill("task") == 4
        await filled(s)
        assert script.slots == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("rounds", [0, 1, 4])
async def test_a_cancel_at_any_moment_leaves_nothing_running(store: SqliteStore, rounds: int):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"), 4 * HOUR + MINUTE)
        await s.backfill("task")
        for _ in range(rounds):
            await anyio.lowlevel.checkpoint()
        await s.cancel("task")
        await filled(s)
        assert s.live() == []


async def test_each_slot_that_is_filled_in_has_its_retries(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await with_a_gap(s, every("1h", catchup="none", retries=1, retry_delay="10s"), 2 * HOUR + MINUTE)
        await s.backfill("task")
        while s._backfills:
            await pass_time(5 * SECOND, s)
            await anyio.sleep(0.001)
        await pass_time(MINUTE, s)
        assert attempts(s.executions("task"))[1:] == [
            (str(k), n, status) for k in range(3) for n, status in ((1, "failed"), (2, "completed"))
        ]
        assert await s.backfill("task") == 0


async def test_a_task_that_is_paused_can_be_filled_in(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"), 2 * HOUR + MINUTE)
        await s.pause("task")
        await s.backfill("task")
        await filled(s)
        assert script.slots == ["0", "1", "2"]


async def test_slots_of_the_schedule_before_are_not_filled_in(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        await s.add(every("30m", catchup="none", first="next"))
        await rest(s)
        assert await s.backfill("task") == 0
        await jump(HOUR + 10 * SECOND, s)
        assert await s.backfill("task") == 2
        await filled(s)
        assert script.slots == ["r1.1", "r1.2"]


async def test_a_schedule_that_is_changed_meanwhile_ends_the_backfill(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        await s.backfill("task")
        await script.begun.wait()
        await s.add(every("2h", catchup="none", first="next"))
        script.let_go()
        await filled(s)
        assert script.slots == ["0"]


async def test_a_corrected_body_is_what_the_rest_of_a_backfill_runs(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none", prompt="old"), 2 * HOUR + MINUTE)
        await s.backfill("task")
        await script.begun.wait()
        await s.add(every("1h", catchup="none", prompt="new"))
        script.let_go()
        await filled(s)
        assert script.prompts == ["old", "new", "new"]


async def test_a_day_that_has_an_hour_twice_is_filled_in_as_it_was_planned(store: SqliteStore):
    script, london = Script(), ZoneInfo("Europe/London")
    for day, hours in ((datetime(2026, 10, 25, tzinfo=london), 25), (datetime(2027, 3, 28, tzinfo=london), 23)):
        script.seen.clear()
        async with running(store, script, clock=clock_at(day.astimezone(UTC) - MINUTE)) as s:
            if s.tasks():
                await s.delete("task")
            await s.define(cron("0 * * * *", "Europe/London", catchup="none"))
            await jump(DAY + (hours - 24) * HOUR + 30 * SECOND, s)
            await s.arm("task")
            await rest(s)
            assert await s.backfill("task") == hours
            await filled(s)
            assert len(set(script.slots)) == hours
            local = [o.scheduled_at.astimezone(london).hour for o in script.seen]
            assert (local.count(1), local[0], local[-1]) == ({25: 2, 23: 0}[hours], 0, 23)


async def test_a_once_task_that_was_missed_can_be_filled_in(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await s.define(once("delay 1h"))
        await jump(3 * DAY, s)
        await s.arm("task")
        await rest(s)
        assert short(s.executions("task")) == [("missed", "0", 1)]
        assert await s.backfill("task") == 1
        await filled(s)
        assert script.slots == ["0"]


async def test_leaving_ends_a_backfill_and_the_next_life_can_be_asked_again(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await with_a_gap(s, every("1h", catchup="none"), 3 * HOUR + MINUTE)
        await s.backfill("task")
        await script.begun.wait()
    script.let_go()
    async with running(store, script, clock=clock) as s:
        assert attempts(s.executions("task"))[1:] == [("0", 1, "interrupted")]
        assert await s.backfill("task") == 3
        await filled(s)
        assert script.slots == ["0", "1", "2", "3"]


async def test_what_a_body_needs_is_asked_for_before_its_slots_are_used_up(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await with_a_gap(s, every("1h", catchup="none"))
        s.runners["agent"].missing = lambda task: "prices is not defined"  # type: ignore[method-assign]
        with pytest.raises(InvalidInput, match="prices is not defined"):
            await s.backfill("task")


@pytest.mark.parametrize("task", [agent(), agent("up")], ids=["manual", "other"])
async def test_a_task_without_planned_slots_has_nothing_to_fill_in(store: SqliteStore, task: Task):
    async with running(store) as s:
        await s.add(task)
        with pytest.raises(InvalidInput, match=f"%car run {task.name}"):
            await s.backfill(task.name)
        with pytest.raises(UnknownTask):
            await s.backfill("nobody")


async def test_a_period_that_ends_before_it_starts_is_refused(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(every("1h"))
        with pytest.raises(InvalidInput, match="ends before it starts"):
            await s.backfill("task", MONDAY + HOUR, MONDAY)
