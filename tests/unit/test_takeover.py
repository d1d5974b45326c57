"""What waits outlives whoever planned it: the next life takes it over, calls it missed, or leaves it to another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Task
from car_sched_nb.store.owners import Owner
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
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
    follower,
    once,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]


@asynccontextmanager
async def next_life(
    store: SqliteStore, task: Task, clock: VirtualClock, gone_for: timedelta, script: Script | None = None
) -> AsyncIterator[tuple[Scheduler, Script]]:
    """Enter a scheduler that plans the task, so long after the one before was left."""
    clock.set(clock.now_us() + gone_for // timedelta(microseconds=1))
    script = script or Script()
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await rest(s)
        yield s, script


async def test_a_retry_outlives_the_kernel_that_planned_it(store: SqliteStore):
    clock, task = clock_at(), every("1h", retries=1, retry_delay="10m", params={"a": 1})
    async with running(store, Script(fails=True), clock=clock) as s:
        await s.add(task)
        await rest(s)
    async with next_life(store, task, clock, MINUTE) as (s, script):
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "waiting")]
        assert script.seen == []
        await pass_time(10 * MINUTE, s)
        assert [(o.attempt, o.params) for o in script.seen] == [(2, {"a": 1})]
        assert s.executions("task")[1].owner == s.owner


@pytest.mark.parametrize("days", [0, 30])
async def test_a_retry_belongs_to_a_run_that_began_and_is_never_too_late(store: SqliteStore, days: int):
    clock, task = clock_at(), every("1h", retries=1, retry_delay="1m", grace="10m")
    async with running(store, Script(fails=True), clock=clock) as s:
        await s.add(task)
        await rest(s)
    async with next_life(store, task, clock, timedelta(days=days, minutes=30)) as (s, script):
        assert [(o.slot, o.attempt) for o in script.seen] == [("0", 2)]
        assert attempts(s.executions("task"))[1] == ("0", 2, "completed")


@pytest.mark.parametrize("catchup", ["latest", "none", "all"])
async def test_a_slot_that_waits_for_its_jitter_outlives_its_kernel(store: SqliteStore, known_ids: None, catchup: str):
    clock, task = clock_at(), every("1h", jitter="59m", catchup=catchup)
    async with running(store, clock=clock) as s:
        await s.add(task)
        await rest(s)
        assert s.executions("task")[0].status == "waiting"
    async with next_life(store, task, clock, SECOND) as (s, script):
        assert s.executions("task")[0].status == "waiting"
        await pass_time(59 * MINUTE, s)
        assert short(s.executions("task")) == [("completed", "0", 1)]
        assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("fields", "gone_for", "status"),
    [
        ({}, 30 * MINUTE, "completed"),
        ({}, 5 * HOUR, "missed"),
        ({"grace": "10m"}, 30 * MINUTE, "missed"),
        ({"catchup": "none"}, 10 * MINUTE, "missed"),
        ({"catchup": "all"}, 5 * HOUR, "completed"),
    ],
    ids=str,
)
async def test_a_queued_slot_outlives_its_kernel_as_long_as_catch_up_allows(
    store: SqliteStore, fields: dict[str, str], gone_for: timedelta, status: str
):
    clock, task, script = clock_at(), every("1h", overlap="queue", **fields), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await pass_time(HOUR, s)
        assert attempts(s.executions("task")) == [("0", 1, "running"), ("1", 1, "waiting")]
    async with next_life(store, task, clock, gone_for) as (s, _):
        first, second = s.executions("task")[:2]
        assert (first.status, second.status, second.slot) == ("interrupted", status, "1")
        assert second.reason == ("no_owner" if status == "missed" else None)
        await pass_time(6 * HOUR, s)
        slots = sorted(int(e.slot) + k for e in s.executions("task") for k in range(e.slots))
        assert slots == list(range(len(slots)))  # each slot has its row, and one


async def test_a_slot_that_was_taken_over_and_missed_can_be_filled_in(store: SqliteStore):
    clock, task, script = clock_at(), every("1h", overlap="queue", catchup="none"), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await pass_time(HOUR, s)
    async with next_life(store, task, clock, 10 * MINUTE) as (s, script):
        assert await s.backfill("task") == 1
        while s._backfills:
            await s.engine.change()
        assert script.slots == ["1"]
        assert await s.backfill("task") == 0


async def test_what_stood_at_the_limit_is_taken_over(store: SqliteStore):
    clock = clock_at()
    async with running(store, Script(held=True), clock=clock, max_running=1) as s:
        for name in "ab":
            await s.add(once(name=name))
            await rest(s)
    async with running(store, script := Script(), clock=clock) as s:
        await s.arm_all()
        await rest(s)
        assert [o.task for o in script.seen] == ["b"]
        assert [(e.task, e.status) for e in s.executions()] == [("a", "interrupted"), ("b", "completed")]


async def test_a_run_by_hand_that_did_not_begin_goes_with_the_hand(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script) as s:
        await s.add(agent(overlap="queue"))
        await s.run_now("task")
        await s.run_now("task")
        await rest(s)
    async with running(store) as s:
        await s.arm("task")
        await rest(s)
        assert [e.status for e in s.executions("task")] == ["interrupted", "interrupted"]


@pytest.mark.parametrize(("on_crash", "ran"), [("leave", []), ("retry", [("0", 2)])])
async def test_a_run_whose_kernel_went_away_is_left_or_tried_again(
    store: SqliteStore, on_crash: str, ran: list[tuple[str, int]]
):
    clock, task = clock_at(), every("1h", on_crash=on_crash)
    async with running(store, Script(held=True), clock=clock) as s:
        await s.add(task)
        await rest(s)
    async with next_life(store, task, clock, MINUTE) as (s, script):
        assert [(o.slot, o.attempt) for o in script.seen] == ran
        assert s.executions("task")[0].status == "interrupted"


async def test_a_killed_kernels_run_is_tried_again_a_few_times_and_not_for_ever(path: Path):
    clock, task, store = clock_at(), every("1d", on_crash="retry"), SqliteStore(path)
    for life in range(8):
        async with running(store, Script(held=True), clock=clock) as s:
            await s.add(task)
            await rest(s)
            gone = Owner(store, f"life {life}", clock.now_us())
            with store.transaction() as db:
                db.execute("UPDATE executions SET owner = ? WHERE status = 'running'", (gone.id,))
            assert gone._lock is not None
            gone._lock.release()
    async with running(store, clock=clock) as s:
        assert attempts(s.executions("task")) == [("0", n, "interrupted") for n in range(1, 6)]
    store.close()


async def test_a_cell_whose_schedule_was_changed_meanwhile_can_be_run(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", overlap="queue"))
        await pass_time(HOUR, s)
    for task in (cron("0 * * * *", overlap="queue"), every("2h", overlap="queue"), once("delay 1h"), agent()):
        async with next_life(store, task, clock, 10 * MINUTE) as (s, _):
            assert [e.slot for e in s.executions("task") if e.status == "waiting"] == []
            assert s.executions("task")[1].status in ("completed", "missed")


async def test_what_is_taken_over_waits_for_the_runner_and_the_names_that_it_needs(store: SqliteStore):
    clock, task = clock_at(), agent(retries=1, retry_delay="1m")
    async with running(store, Script(fails=True), clock=clock) as s:
        s.register("mine", Script(fails=True))
        await s.add(Task("task", "do it", runner="mine", retries=1, retry_delay="1m"))
        await s.run_now("task")
        await rest(s)
    clock.set(clock.now_us() + 3_600_000_000)
    async with running(store, clock=clock) as s:
        await s.arm_all()
        await rest(s)
        assert attempts(s.executions(task.name))[1][1:] == (2, "waiting")
        assert await s.wait()
        s.register("mine", Script())
        await s.recheck()
        await rest(s)
        assert attempts(s.executions(task.name))[1][1:] == (2, "completed")


async def test_two_lives_that_take_over_start_it_once(path: Path):
    clock, script = clock_at(), Script()
    async with running(str(path), Script(fails=True), clock=clock) as s:
        await s.add(every("1h", "a", retries=1, retry_delay="1m", first="now"))
        await rest(s)
    async with (
        running(str(path), script, clock=clock_at(MONDAY + SECOND)) as one,
        running(str(path), script, clock=clock_at(MONDAY + SECOND)) as two,
    ):
        for s in (one, two):
            await s.arm_all()
        await pass_time(2 * MINUTE, one, two)
        assert [(o.slot, o.attempt) for o in script.seen] == [("0", 2)]
        assert attempts(one.executions("a")) == [("0", 1, "failed"), ("0", 2, "completed")]
        assert one.live() == two.live() == []


async def test_a_scheduler_that_lives_takes_over_from_one_that_leaves(path: Path):
    script = Script()
    async with running(str(path), script, clock=clock_at()) as stays:
        async with running(str(path), Script(fails=True), clock=clock_at()) as leaves:
            await leaves.add(every("1h", retries=1, retry_delay="1m"))
            await rest(leaves)
            await stays.arm("task")
        await come_true(stays.live)
        await pass_time(2 * MINUTE, stays)
        assert [(o.slot, o.attempt) for o in script.seen] == [("0", 2)]


async def test_a_follower_that_was_queued_keeps_what_it_follows(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "task")
    async with running(store, script, clock=clock) as s:
        await s.add(agent("up"))
        await s.add(follower("up", retries=1, retry_delay="1m"))
        await s.run_now("up")
        await rest(s)
    script.fails = False
    clock.set(clock.now_us() + 3_600_000_000)
    async with running(store, script, clock=clock) as s:
        await s.arm_all()
        await rest(s)
        first, second = s.executions("task")
        assert (second.status, second.upstream) == ("completed", first.upstream)
