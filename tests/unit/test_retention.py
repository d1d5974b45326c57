"""Old history is removed by hand only, and nothing that was served runs again by it."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Task, Trigger, to_us
from car_sched_nb.store import retention
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    SECOND,
    Ear,
    Script,
    agent,
    attempts,
    clock_at,
    cron,
    every,
    follower,
    jump,
    now,
    once,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio


def a_second_later(clock: VirtualClock) -> datetime:
    """Return an instant that all that has ended lies before."""
    clock.step(1_000_000)
    return now(clock)


def test_nothing_is_removed_by_mistake():
    now_us = to_us(MONDAY)
    assert retention.before_us("90d", now_us) == to_us(MONDAY - 90 * DAY)
    refused: dict[Any, str] = {
        "90": "'90' has no unit: write 90d",
        "in 2h": "lies ahead",
        "2030-01-01": "lies ahead; write how long ago, 90d",
        None: "before='90d'",
        MONDAY + SECOND: "lies ahead",
    }
    for given, said in refused.items():
        with pytest.raises(InvalidInput, match=re.escape(said)):
            retention.before_us(given, now_us)


async def test_what_ended_before_an_instant_is_removed_and_counted(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h"))
        await pass_time(10 * HOUR, s)
        assert await s.archive("3h30m") == 7
        assert [e.slot for e in s.executions("task")] == ["7", "8", "9", "10"]
        assert await s.archive("3h30m") == 0
        assert await s.archive(MONDAY + 9 * HOUR) == 2


def files_in(folder: Path) -> int:
    return len([*folder.iterdir()])


async def test_outputs_go_with_their_executions_and_only_theirs(path: Path):
    outputs, clock = Path(f"{path}.d/outputs"), clock_at()
    async with running(str(path), clock=clock) as s:
        for name in "ab":
            await s.run_once(Task(name, "seq 60000", runner="shell"))
        await jump(HOUR, s)
        await s.run_once("a")
        assert files_in(outputs) == 3
        assert await s.archive("30m") == 1
        assert files_in(outputs) == 2
        assert s.store.rows("SELECT count(*) FROM outputs") == [(2,)]


async def test_other_namespaces_keep_their_history(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock, namespace="other") as s:
        await s.add(every("1h"))
        await pass_time(3 * HOUR, s)
        async with running(store, clock=clock_at(now(clock)), namespace="mine") as mine:
            assert await mine.archive("1m") == 0
        assert len(s.executions("task")) == 4


@pytest.mark.parametrize(
    "task",
    [every("1h"), every("1h", catchup="all"), cron("0 * * * *"), once(), every("1h", max_runs=2)],
    ids=["interval", "all", "cron", "once", "max_runs"],
)
async def test_after_a_restart_nothing_that_was_served_runs_again(store: SqliteStore, task: Task):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await pass_time(5 * HOUR, s)
        served = script.slots
        await s.archive(a_second_later(clock))
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await rest(s)
        if not task.max_runs:
            await s.run_once("task")
        assert await s.backfill("task") == 0
        assert script.slots == served


@pytest.mark.parametrize("last", ["run_now", "backfill"])
async def test_the_current_slot_is_known_as_served_whatever_ran_after_it(store: SqliteStore, last: str):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h"))
        await jump(5 * HOUR, s)
        await s.arm("task")
        await pass_time(MINUTE, s)
        assert script.slots == ["5"]
        if last == "run_now":
            await s.run_now("task")
            await rest(s)
        else:
            await s.backfill("task")
            while s._backfills:
                await s.engine.change()
        ran = len(script.seen)
        await pass_time(MINUTE, s)
        await s.archive("30s")
        assert (await s.run_once("task")).slot == "5"
        assert len(script.seen) == ran


async def test_a_gap_that_was_filled_in_is_not_filled_in_again(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h", catchup="none", retries=1, retry_delay="0"))
        await jump(5 * HOUR + MINUTE, s)
        await s.arm("task")
        await rest(s)
        await s.backfill("task")
        while s._backfills or s.live():
            await s.engine.change()
        await pass_time(3 * HOUR, s)
        ran = len(script.seen)
        for before in ("2h", "1h", "30m", "1s"):
            await s.archive(before)
            assert await s.backfill("task") == 0
        assert len(script.seen) == ran


async def test_a_slot_that_was_run_by_hand_inside_a_gap_is_not_filled_in_again(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h", catchup="none"))
        await jump(5 * HOUR + 10 * MINUTE, s)
        assert (await s.run_once("task")).slot == "5"
        await jump(90 * MINUTE, s)
        await s.arm("task")
        await pass_time(3 * HOUR, s)
        (gap,) = [e for e in s.executions("task") if e.status == "missed"]
        assert (gap.slot, gap.slots) == ("0", 7)
        await s.archive("4h")
        assert await s.backfill("task") == 6
        while s._backfills:
            await s.engine.change()
        assert script.slots.count("5") == 1


async def test_what_is_live_and_the_attempts_before_it_stay(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "2")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=3, retry_delay="3h"))
        await pass_time(2 * HOUR + MINUTE, s)
        assert await s.archive(a_second_later(clock)) == 1
        newest_end = ("1", 1, "completed")
        assert attempts(s.executions("task")) == [newest_end, ("2", 1, "failed"), ("2", 2, "waiting")]
        script.fails = False
        await pass_time(4 * HOUR, s)
        assert attempts(s.executions("task"))[2] == ("2", 2, "completed")


async def test_a_follower_does_not_follow_an_end_again_whose_row_is_gone(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", "up", first="next"))
        await s.add(follower("up"))
        await pass_time(3 * HOUR, s)
        assert [o.task for o in script.seen].count("task") == 3
        await s.archive(a_second_later(clock))
        assert len(s.executions("up")) == len(s.executions("task")) == 1
    async with running(store, script, clock=clock) as s:
        await s.arm_all()
        await rest(s)
        assert [o.task for o in script.seen].count("task") == 3
        await pass_time(HOUR, s)
        assert [o.task for o in script.seen].count("task") == 4
        assert s.executions("task")[-1].upstream == (s.executions("up")[-1].execution_id,)


async def test_a_content_that_comes_back_is_told_from_the_first_whose_row_is_old(store: SqliteStore, tmp_path: Path):
    watched, script = tmp_path / "data.txt", Script()
    watched.write_text("A")
    async with running(store, script) as s:
        ear = Ear(s)
        await s.add(agent(trigger=Trigger.FILE_WATCH, watch_path=str(watched)))
        for content in "BABAB":
            watched.write_text(content)
            await ear.hears("finished")
            await anyio.sleep(0.002)
            await s.archive("now")
        assert len(set(script.ids)) == 5
        served = await s.run_once("task")
        assert served.execution_id in script.ids
        assert len(script.ids) == 5


async def test_a_task_still_says_how_its_newest_run_ended(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.run_once(once())
        await jump(DAY, s)
        before = s.task("task")
        await s.archive("1h")
        assert s.task("task") == before
        assert before.status == "failed"


async def test_rows_of_deleted_tasks_go_too_but_for_the_newest(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h"))
        await pass_time(3 * HOUR, s)
        await s.delete("task")
        assert await s.archive(a_second_later(clock)) == 3
        assert short(s.executions()) == [("completed", "3", 1)]
