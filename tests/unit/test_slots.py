"""Each planned slot with what became of it, and the sums of it, beside a model that only counts."""

import random
from datetime import timedelta

import msgspec
import pandas as pd
import pytest

from car_sched_nb import frames
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput, UnknownTask
from car_sched_nb.model import Execution, Task, to_us
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    Script,
    advance,
    agent,
    clock_at,
    cron,
    every,
    jump,
    leap,
    pass_time,
    rest,
    running,
)

pytestmark = pytest.mark.anyio
HOUR_US = 3_600_000_000


def slots_of(s: Scheduler, task: Task, ahead: timedelta = timedelta()) -> pd.DataFrame:
    now_us = s.clock.now_us()
    stored = s.task(task.name)
    assert stored.created_at is not None
    end_us = now_us + ahead // timedelta(microseconds=1) + 1
    return frames.slots(s.store, [stored], to_us(stored.created_at), end_us, now_us)


def told(executions: list[Execution]) -> dict[int, str]:
    """Return what became of each slot of an hourly task by its number: the last attempt, else its gap."""
    found: dict[int, str] = {}
    for e in executions:
        if e.attempt == 0:
            for number in range(int(e.slot), int(e.slot) + e.slots):
                found.setdefault(number, str(e.status))
    for e in executions:
        if e.attempt > 0 and e.trigger != "manual":
            found[int(e.slot)] = str(e.status)
    return found


@pytest.mark.parametrize("seed", range(8))
async def test_every_slot_is_there_once_with_what_became_of_it(store: SqliteStore, seed: int):
    chance = random.Random(seed)
    clock, script = clock_at(), Script(lambda one: random.Random(f"{seed} {one.slot} {one.attempt}").random() < 0.4)
    task = every("1h", retries=1, retry_delay="1s", catchup=chance.choice(["latest", "none", "all"]))
    async with running(store, script, clock=clock) as s:
        await s.add(task)
        await rest(s)
        for _ in range(12):
            match chance.randrange(5):
                case 0:
                    await s.pause("task")
                case 1:
                    await s.resume("task")
                case 2:
                    await jump(chance.randint(1, 30) * HOUR, s)
                case 3:
                    await s.run_now("task")
                case _:
                    await pass_time(chance.randint(10, 500) * MINUTE, s)
        await pass_time(2 * MINUTE, s)
        frame = slots_of(s, task, 3 * HOUR)
        enabled, known = s.task("task").enabled, told(s.executions("task"))
        last = (clock.now_us() - to_us(MONDAY)) // HOUR_US
    assert frame.index.is_unique
    assert [int(slot) for slot in frame.index] == list(range(len(frame)))
    assert list(frame.scheduled_at) == [MONDAY + int(slot) * HOUR for slot in frame.index]
    status = {int(str(slot)): str(state) for slot, state in frame.status.items()}
    unsettled = [number for number, id_ in zip(status, frame.execution_id, strict=True) if not isinstance(id_, str)]
    in_pause = {number: "skipped" for number in unsettled if status[number] != "to_come"}
    assert {number: state for number, state in status.items() if state != "to_come"} == known | in_pause
    assert not (enabled and in_pause), "slots of a pause have no row before it ends"
    assert {*known, *in_pause} == set(range(last + 1))
    to_come = [number for number, state in status.items() if state == "to_come"]
    assert to_come == ([last + 1, last + 2, last + 3] if enabled else [])


async def test_a_part_of_a_long_gap_is_found_without_walking_it(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("10ms", catchup="none"))
        await s.wait()
        await leap(s, clock, 30 * DAY)
        stored = s.task("task")
        at_us = to_us(MONDAY + 10 * DAY)
        frame = frames.slots(store, [stored], at_us, at_us + 1_000_000, clock.now_us())
        assert list(frame.status.unique()) == ["missed"]
        assert list(frame.index) == [str(number) for number in range(86_400_000, 86_400_100)]
        with pytest.raises(InvalidInput, match="ask for less of it"):
            slots_of(s, stored)


async def test_slots_of_a_schedule_that_was_changed_stay_what_they_were(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h"))
        await s.wait()
        await leap(s, clock, 5 * HOUR)
        await s.add(every("2h", first="next"))
        await advance(s, clock, 4 * HOUR)
        frame = slots_of(s, every("2h"))
    assert list(frame.index) == ["0", "1", "5", "r1.1", "r1.2"]
    assert list(frame.slots) == [1, 4, 1, 1, 1]
    assert list(frame.status) == ["completed", "missed", "completed", "completed", "completed"]


async def test_the_sums_of_a_summary_are_those_of_its_slots(store: SqliteStore):
    clock, script = clock_at(), Script(lambda occurrence: occurrence.slot in ("2", "3"))
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", "hourly", catchup="none"))
        await s.add(cron("0 0 * * *", name="nightly"))
        await advance(s, clock, 5 * HOUR)
        await leap(s, clock, 4 * HOUR + MINUTE)
        summary = frames.summary(store, s.namespace, 0)
        hourly = summary.loc["hourly"]
        assert list(hourly[["served", "failed", "missed", "skipped", "running"]]) == [4, 2, 4, 0, 0]
        assert (hourly.first_error, hourly.last_error) == ("it failed, as told", "it failed, as told")
        assert hourly.last_success == MONDAY + 5 * HOUR
        assert summary.loc["nightly", "next_at"] == MONDAY.replace(hour=0) + DAY
        assert summary.loc["nightly", "served"] == 0
        assert pd.isna(summary["last_success"]["nightly"]) and pd.isna(summary["first_error"]["nightly"])
        later = frames.summary(store, s.namespace, to_us(MONDAY + 4 * HOUR))
        assert list(later.loc["hourly"][["served", "failed"]]) == [2, 0]
    empty = frames.summary(store, "nobody", 0)
    assert len(empty) == 0
    assert empty.dtypes.equals(summary.dtypes)


async def test_structured_answers_are_columns(store: SqliteStore):
    async def speaks(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer=str(runtime.params["say"]))

    said = [{"item": "apples", "many": {"here": 3}, "task": "x"}, [1, 2], "plain", {"item": "pears"}]
    async with running(store) as s:
        s.register("speaks", speaks)
        await s.add(Task("asks", "say it", runner="speaks"))
        for one in said:
            text = one if isinstance(one, str) else msgspec.json.encode(one).decode()
            await s.run_once("asks", params={"say": text})
        await s.run_once(agent("other"))
        frame = frames.answers(store, frames.ids_of(store, s.namespace, "as*"))
        assert list(frame.columns) == ["task", "scheduled_at", "item", "task_answered", "many.here", "answer"]
        assert list(frame["item"].fillna("")) == ["apples", "", "pears"]
        assert frame["many.here"].iloc[0] == 3
        with pytest.raises(UnknownTask, match="asks"):
            frames.ids_of(store, s.namespace, "ask")
        none = frames.answers(store, frames.ids_of(store, s.namespace, "other"))
        assert (len(none), list(none.columns)) == (0, ["task", "scheduled_at"])


async def test_a_plan_of_all_tasks_tells_where_it_piles_up(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        tasks = [await s.add(every("20m", "a")), await s.add(cron("0 * * * *", name="b")), await s.add(agent("c"))]
        until_us = clock.now_us() + 2 * HOUR_US
        plan = frames.preview(tasks, clock.now_us(), None, until_us)
        assert list(plan["task"]) == ["a", "a", "a", "b", "a", "a", "a", "b"]
        assert plan.scheduled_at.is_monotonic_increasing
        assert list(plan[plan.in_minute == 2].local.dt.minute.unique()) == [0]
        assert list(frames.preview(tasks, clock.now_us(), 1)["task"]) == ["a", "b"]
        await s.define(every("10ms", "fast"))
        with pytest.raises(InvalidInput, match="ask for less"):
            frames.preview(s.tasks(), clock.now_us(), None, until_us + 100 * HOUR_US)


async def test_slots_of_several_tasks_are_in_the_order_of_time(store: SqliteStore):
    clock = clock_at()
    async with running(store, Script(), clock=clock) as s:
        await s.add(every("2h", "a"))
        await advance(s, clock, timedelta(hours=1))
        await s.add(every("2h", "b"))
        await advance(s, clock, timedelta(hours=4))
        frame = frames.slots(store, [s.task("a"), s.task("b")], None, None, clock.now_us())
        alone = frames.slots(store, [s.task("b")], None, None, clock.now_us())
    assert list(zip(frame["task"], frame.index, strict=True)) == [
        *(("a", "0"), ("b", "0"), ("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"))
    ]
    assert frame["scheduled_at"].is_monotonic_increasing
    pd.testing.assert_frame_equal(frame[frame["task"] == "b"], alone)
    assert frames.slots(store, [], None, None, clock.now_us()).dtypes.equals(alone.dtypes)
