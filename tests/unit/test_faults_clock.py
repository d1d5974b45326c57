"""A wall clock that is set, and machines that slept: no slot runs twice, none is lost, durations stay true."""

from collections.abc import Iterator
from datetime import timedelta

import anyio
import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.model import Execution
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
    once,
    running,
    short,
)

pytestmark = pytest.mark.anyio

YEAR = 365 * DAY
STEPS = [HOUR, DAY, YEAR, -HOUR, -DAY, -YEAR]
US = timedelta(microseconds=1)


async def step(clock: VirtualClock, by: timedelta) -> None:
    """Set the wall clock, without time that passes, and let the engine notice."""
    clock.step(by // US)
    await anyio.sleep(0.005)


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """A store in memory: how it keeps rows has no part in this."""
    opened = SqliteStore()
    opened.migrate()
    yield opened
    opened.close()


def each_slot_told(executions: list[Execution]) -> bool:
    """Tell whether none between the first slot and the last has no row."""
    told = {slot for e in executions for slot in range(int(e.slot), int(e.slot) + e.slots)}
    return told == set(range(max(told) + 1))


@pytest.mark.parametrize("by", STEPS, ids=str)
async def test_a_wall_clock_that_is_set_runs_no_slot_twice_and_leaves_none_out(store: SqliteStore, by: timedelta):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h"))
        await advance(s, clock, 3 * HOUR)
        await step(clock, by)
        await s.wait()
        await advance(s, clock, 3 * HOUR)
        await step(clock, -by)
        await s.wait()
        await advance(s, clock, 3 * HOUR)
        assert len(set(recorder.slots)) == len(recorder.slots)
        assert each_slot_told(s.executions("task"))
        newest = max(int(slot) for slot in recorder.slots)
        assert newest >= 9 - 1  # what had to come has come


@pytest.mark.parametrize("by", STEPS, ids=str)
async def test_a_daily_task_goes_on_after_the_clock_was_set(store: SqliteStore, by: timedelta):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(cron("0 12 * * *"))
        await advance(s, clock, 2 * DAY)
        await step(clock, by)
        await s.wait()
        before = len(recorder.slots)
        await advance(s, clock, 2 * DAY)
        assert len(recorder.slots) >= before + (2 if by > timedelta(0) else 0)
        await step(clock, -by)
        await s.wait()
        before = len(recorder.slots)
        await advance(s, clock, 3 * DAY)
        assert len(recorder.slots) >= before + 1
        assert len(set(recorder.slots)) == len(recorder.slots)


@pytest.mark.parametrize("by", STEPS, ids=str)
async def test_a_run_lasts_as_long_as_it_lasts_whatever_the_wall_clock_says(store: SqliteStore, by: timedelta):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        await s.add(agent(timeout="1h"))
        await s.run_now("task")
        await recorder.begun.wait()
        clock.set(clock.now_us() + 5_000_000)
        await step(clock, by)
        recorder.let_go()
        await s.wait()
        (ended,) = s.executions("task")
        assert ended.status == "completed"  # a timeout counts time that passes
        assert ended.duration == 5 * SECOND


@pytest.mark.parametrize("by", STEPS, ids=str)
async def test_a_retry_that_waits_runs_once_and_never_later_than_its_delay(store: SqliteStore, by: timedelta):
    clock, recorder = clock_at(), Recorder()
    recorder.error = ValueError("no")
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(agent(retries=1, retry_delay="10m"))
        await s.run_now("task")
        await ear.hears("finished")
        recorder.error = None
        await step(clock, by)
        for _ in range(30):
            await anyio.sleep(0.001)
            clock.set(clock.now_us() + 60_000_000)
        await s.wait()
        assert [(str(e.status), e.attempt) for e in s.executions("task")] == [("failed", 1), ("completed", 2)]


@pytest.mark.parametrize("by", STEPS, ids=str)
async def test_a_slot_that_waits_for_its_jitter_runs_once(store: SqliteStore, by: timedelta):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(once(jitter="30m"))
        await ear.hears("claimed")
        assert recorder.seen == []
        await step(clock, by)
        for _ in range(40):
            await anyio.sleep(0.001)
            clock.set(clock.now_us() + 60_000_000)
        await s.wait()
        assert short(s.executions("task")) == [("completed", recorder.slots[0], 1)]
        assert len(recorder.slots) == 1


@pytest.mark.parametrize(
    ("catchup", "rows"),
    [
        ("latest", [("completed", "0", 1), ("missed", "1", 7), ("completed", "8", 1), ("completed", "9", 1)]),
        ("none", [("completed", "0", 1), ("missed", "1", 8), ("completed", "9", 1)]),
        ("all", [("completed", str(slot), 1) for slot in range(10)]),
    ],
)
async def test_a_laptop_that_slept_follows_each_tasks_catch_up(
    store: SqliteStore, catchup: str, rows: list[tuple[str, str, int]]
):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", catchup=catchup))
        await s.wait()
        await step(clock, 8 * HOUR + 10 * MINUTE)  # the monotonic clock stands still in its sleep
        await s.wait()
        await leap(s, clock, 50 * MINUTE)
        assert short(s.executions("task")) == rows


async def test_slots_that_pass_before_a_step_back_is_noticed_are_not_lost(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", catchup="all"))
        await s.wait()
        await step(clock, DAY)
        await s.wait()
        clock.step(-DAY // US)
        clock.set(clock.now_us() + 3 * HOUR // US)  # before the engine has looked
        await anyio.sleep(0.005)
        await s.wait()
        await advance(s, clock, DAY)
        assert sorted(map(int, recorder.slots)) == list(range(28))


async def test_a_laptop_that_sleeps_during_a_run_lets_it_go_on(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("1h"))
        await recorder.begun.wait()
        await step(clock, 8 * HOUR)
        await ear.hears("gap")
        recorder.let_go()
        await s.wait()
        assert short(s.executions("task")) == [("completed", "0", 1), ("skipped", "1", 8)]
        assert s.executions("task")[0].duration == timedelta(0)


async def test_a_small_step_back_is_noticed_though_the_engine_slept_longer(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    recorder.error = ValueError("no")
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(agent(retries=1, retry_delay="1m"))
        await s.run_now("task")
        await ear.hears("finished")
        recorder.error = None
        # 30 s pass and the clock is set back by 20 s before the engine looks again.
        clock._now_us += 30_000_000
        clock._mono_us += 30_000_000
        await step(clock, -20 * SECOND)
        await anyio.sleep(0.01)
        clock.set(clock.now_us() + 46_000_000)  # the delay and its jitter are over
        await ear.hears("finished")
        assert [e.attempt for e in s.executions("task")] == [1, 2]
