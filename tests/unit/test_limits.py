"""Where a task ends: after so many runs, or at an instant."""

from pathlib import Path

import pytest

from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Status
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    SECOND,
    Script,
    attempts,
    clock_at,
    come_true,
    cron,
    every,
    follower,
    jump,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio

# How many runs


async def test_after_so_many_runs_nothing_is_planned_any_more(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=3))
        await pass_time(HOUR, s)
        assert script.slots == ["0", "1", "2"]
        assert short(s.executions("task")) == [("completed", str(k), 1) for k in range(3)]
        task = s.task("task")
        assert (task.run_count, task.next_at, task.status) == (3, None, "completed")


async def test_retries_do_not_count_as_runs(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt < 3)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=2, retries=2, retry_delay="1s"))
        await pass_time(HOUR, s)
        assert [row[:2] for row in attempts(s.executions("task"))] == [(str(k), n) for k in (0, 1) for n in (1, 2, 3)]


async def test_skipped_and_missed_slots_do_not_count_as_runs(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=3))
        await pass_time(3 * MINUTE, s)
        script.let_go()
        await pass_time(MINUTE, s)
        clock.set(clock.now_us() + 600_000_000)
        await rest(s)
        assert script.slots == ["0", "4", "14"]


async def test_runs_are_counted_across_a_restart(store: SqliteStore):
    clock, script = clock_at(), Script()
    for _ in range(4):
        async with running(store, script, clock=clock) as s:
            await s.add(every("1m", max_runs=6))
            await pass_time(MINUTE, s)
    assert script.slots == ["0", "1", "2", "3", "4"]  # the slot at a restart is served before it, and not again
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=6))
        await pass_time(HOUR, s)
    assert len(script.seen) == 6


async def test_two_schedulers_that_catch_up_all_share_the_runs(path: Path):
    script = Script()
    async with (
        running(str(path), script, clock=clock_at()) as one,
        running(str(path), script, clock=clock_at()) as two,
    ):
        await one.define(every("1m", max_runs=7, catchup="all"))
        await jump(HOUR, one, two)
        await one.arm("task")
        await two.arm("task")
        await rest(one, two)
        await pass_time(HOUR, one, two)
        assert script.slots == [str(k) for k in range(7)]
        assert one.task("task").next_at is None
        assert {e.status for e in one.executions("task")} == {Status.COMPLETED}


async def test_runs_left_after_one_by_hand_are_what_is_planned(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", max_runs=2))
        await rest(s)
        await s.run_now("task")
        await rest(s)
        assert (s.task("task").run_count, s.task("task").next_at) == (2, None)
        assert s.task("task").status == "completed"
        await pass_time(5 * HOUR, s)
        assert len(script.seen) == 2


async def test_more_runs_than_before_go_on_with_the_next_slot(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=1))
        await pass_time(30 * SECOND, s)
        await s.add(every("1m", max_runs=3))
        await pass_time(HOUR, s)
        assert script.slots == ["0", "1", "2"]


async def test_another_schedule_has_its_own_runs(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_runs=2))
        await pass_time(HOUR, s)
        await s.add(every("1h", max_runs=2))
        await pass_time(5 * HOUR, s)
        assert script.slots == ["0", "1", "r1.0", "r1.1"]


async def test_a_loop_ends_when_nothing_more_will_run(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        loop = s.spawn(every("1m", max_runs=2, retries=1, retry_delay="1s"), max_iterations=5)
        bounded = s.spawn(every("1m", "bounded", until="in 90s"))
        await come_true(lambda: len(s.engine.armed) == 2)
        await pass_time(3 * MINUTE, s)
        assert attempts(await loop) == [("0", 2, "completed"), ("1", 2, "completed")]
        assert [e.slot for e in await bounded] == ["0", "1"]
        assert await s.run_loop("task") == []


# Until when


async def test_no_slot_is_planned_after_its_end_and_the_last_may_be_on_it(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        task = await s.add(every("1m", until="in 3m"))
        assert task.until_at == MONDAY + 3 * MINUTE
        await pass_time(HOUR, s)
        assert script.slots == ["0", "1", "2", "3"]
        assert s.task("task").next_at is None


async def test_a_run_that_began_before_the_end_goes_on_after_it(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", until="in 30s"))
        await pass_time(HOUR, s)
        assert script.inside == 1
        script.let_go()
        await s.wait()
        assert short(s.executions("task")) == [("completed", "0", 1)]


async def test_after_a_gap_only_slots_before_the_end_are_told_of(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h", until="in 5h"))
        clock.set(clock.now_us() + 30 * 3_600_000_000)
        await s.arm("task")
        await rest(s)
        assert short(s.executions("task")) == [("missed", "0", 6)]


async def test_an_end_typed_the_same_again_stays_the_instant_that_it_was(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(cron("0 * * * *", until="18:00"))
        clock.set(clock.now_us() + 86_400_000_000)
        assert (await s.define(cron("0 * * * *", until="18:00"))).change == "unchanged"
        assert (await s.define(cron("0 * * * *", until="18:00", prompt="new"))).change == "body"
        assert s.task("task").until_at == MONDAY + 9 * HOUR
        await s.define(cron("0 * * * *", until="19:00", prompt="new"))
        assert s.task("task").until_at == MONDAY + DAY + 10 * HOUR


async def test_an_end_is_read_in_the_zone_of_the_task(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(cron("0 * * * *", "Asia/Tokyo", until="23:00"))
        assert s.task("task").until_at == MONDAY + 5 * HOUR
        await s.add(cron("0 * * * *", "UTC", until="23:00"))
        assert s.task("task").until_at == MONDAY + 14 * HOUR


@pytest.mark.parametrize(
    ("until", "said"),
    [("08:00", "--until 2026-11-24T08:00"), ("2020-01-01", "has passed"), ("5m ago", "--until"), ("banana", "banana")],
)
async def test_an_end_that_has_passed_is_refused_and_nothing_is_stored(store: SqliteStore, until: str, said: str):
    async with running(store, clock=clock_at()) as s:
        with pytest.raises(InvalidInput, match=said):
            await s.add(cron("0 * * * *", until=until))
        assert s.tasks() == []


async def test_a_follower_runs_no_more_after_its_end_or_its_runs(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", "up", first="next"))
        await s.add(follower("up", "twice", max_runs=2))
        await s.add(follower("up", "early", until="in 150s"))
        await pass_time(5 * MINUTE, s)
        assert [len(s.executions(name)) for name in ("up", "twice", "early")] == [5, 2, 2]
