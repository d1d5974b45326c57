"""Where a task stands still: paused after failures in a row, in the line at the limit; and waiting for its end."""

from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from car_sched_nb.errors import StoreError, UnknownTask
from car_sched_nb.model import Task, Trigger
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    HOUR,
    MINUTE,
    MONDAY,
    Ear,
    Script,
    agent,
    attempts,
    clock_at,
    every,
    follower,
    now,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def test_a_task_is_paused_after_so_many_failures_in_a_row(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("1m", max_failures=3))
        await pass_time(10 * MINUTE, s)
        assert script.slots == ["0", "1", "2"]
        assert (s.task("task").status, s.task("task").failures) == ("disabled", 3)
        assert [e.kind for e in ear.events].count("paused") == 1


async def test_a_success_between_failures_begins_the_count_anew(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot != "2")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_failures=3))
        await pass_time(10 * MINUTE, s)
        assert script.slots == ["0", "1", "2", "3", "4", "5"]


async def test_resumed_a_task_may_fail_so_often_again(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_failures=2))
        await pass_time(5 * MINUTE, s)
        await s.resume("task")
        assert s.task("task").failures == 0
        await pass_time(5 * MINUTE, s)
        assert script.slots == ["0", "1", "6", "7"]
        rows = short(s.executions("task"))
        assert rows[2:] == [("skipped", "2", 4), ("failed", "6", 1), ("failed", "7", 1)]


async def test_an_occurrence_fails_once_however_often_it_was_tried(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_failures=2, retries=2, retry_delay="1s"))
        await pass_time(10 * MINUTE, s)
        assert attempts(s.executions("task")) == [(slot, n, "failed") for slot in "01" for n in (1, 2, 3)]


async def test_a_cancelled_run_neither_counts_as_a_failure_nor_ends_the_row(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot != "1", held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_failures=2))
        for slot in range(4):
            await rest(s)
            if slot == 1:
                await s.cancel("task")
            else:
                script.step()
            await pass_time(MINUTE, s)
        assert [e.status for e in s.executions("task")] == ["failed", "cancelled", "failed"]


async def test_what_is_queued_waits_when_failures_pause_the_task(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0", held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", max_failures=1, overlap="queue"))
        await pass_time(MINUTE, s)
        script.let_go()
        await pass_time(MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("1", 1, "waiting")]
        assert clock.next_us is None or clock.next_us > clock.now_us() + 30_000_000  # nothing asks again and again
        await s.resume("task")
        await rest(s)
        assert attempts(s.executions("task"))[1] == ("1", 1, "completed")


# The scheduler's limit


async def test_rows_over_the_limit_say_so_and_keep_their_order(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock, max_running=1) as s:
        for name in "abc":
            await s.add(every("1h", name))
            await rest(s)
        assert [(e.task, e.status, e.wait_reason) for e in s.executions()] == [
            ("a", "running", None),
            ("b", "waiting", "limit"),
            ("c", "waiting", "limit"),
        ]
        script.let_go()
        await s.wait()
        assert [o.task for o in script.seen] == ["a", "b", "c"]


async def test_cells_run_again_do_not_disturb_what_stands_in_line(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock, max_running=2) as s:
        for _ in range(4):
            for name in "abcde":
                await s.add(every("1h", name))
            await rest(s)
        for inside in (2, 2, 1):
            assert script.inside == inside
            script.step()
            await rest(s)
        began = [o.task for o in script.seen]
        assert [sorted(began[:2]), sorted(began[2:4]), began[4:]] == [["a", "b"], ["c", "d"], ["e"]]
        assert s.live() == []
        script.let_go()
        await pass_time(HOUR, s)
        assert len(script.seen) == 10


async def test_what_stands_in_line_can_be_cancelled_and_gives_no_place_away(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock, max_running=1) as s:
        for name in "abc":
            await s.add(every("1h", name))
            await rest(s)
        assert await s.cancel("b") == 1
        assert script.inside == 1
        script.let_go()
        await s.wait()
        assert [(e.task, e.status) for e in s.executions()] == [
            ("a", "completed"),
            ("b", "cancelled"),
            ("c", "completed"),
        ]


async def test_a_retry_stands_in_line_like_the_others(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1 and o.task == "a")
    async with running(store, script, clock=clock, max_running=1) as s:
        await s.add(every("1h", "a", retries=1, retry_delay="1m"))
        await rest(s)
        script.hold()
        await s.add(every("1h", "b"))
        await pass_time(2 * MINUTE, s)
        assert [(o.task, o.attempt) for o in script.seen] == [("a", 1), ("b", 1)]
        script.let_go()
        await rest(s)
        assert [(o.task, o.attempt) for o in script.seen][2:] == [("a", 2)]


async def test_a_timeout_counts_from_the_start_and_not_while_it_waits(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, max_running=1) as s:
        await s.add(agent("a"))
        await s.run_now("a")
        await script.begun.wait()
        await s.add(agent("b", timeout="500ms"))
        await s.run_now("b")
        await anyio.sleep(0.55)
        script.let_go()
        await s.wait()
        assert [e.status for e in s.executions()] == ["completed", "completed"]


# Waiting for the end


async def test_waiting_ends_with_what_is_due_now_and_does_not_wait_for_the_next_slot(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h"))
        await s.add(every("1h", "other"))
        await script.begun.wait()
        assert not await s.wait("task", timeout_s=0.05)
        script.let_go()
        assert await s.wait("task", "other")
        with pytest.raises(UnknownTask, match="task"):
            await s.wait("tsk")


async def test_waiting_lasts_until_the_last_attempt(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=1, retry_delay="1m"))
        await rest(s)
        assert not await s.wait(timeout_s=0.05)
        await pass_time(2 * MINUTE, s)
        assert await s.wait()
        assert now(clock) - MONDAY == timedelta(minutes=2)
        assert s.task("task").trigger is Trigger.INTERVAL


async def test_waiting_ends_when_the_task_is_paused_that_it_waits_for(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=1, retry_delay="1m"))
        await rest(s)
        async with anyio.create_task_group() as group:
            group.start_soon(s.wait)
            await rest(s)
            await s.pause("task")


async def test_a_follower_that_waits_for_names_is_told_of(store: SqliteStore):
    async with running(store) as s:
        await s.add(agent("up"))
        await s.add(follower("up"))
        s.runners["agent"].missing = lambda task: "df is not defined"  # type: ignore[method-assign]
        assert ("task", "df is not defined") in s.waiting_for_names()


async def test_a_place_that_becomes_free_while_a_claim_is_written_goes_to_that_claim(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, max_running=1) as s, anyio.create_task_group() as group:
        for name in "ab":
            await s.add(agent(name))
        await s.run_now("a")
        await rest(s)
        group.start_soon(s.run_now, "b")
        await anyio.lowlevel.checkpoint()
        script.let_go()  # before the claim is answered, which found no place
        await rest(s)
        assert [o.task for o in script.seen] == ["a", "b"]


async def test_whoever_waits_learns_that_what_was_due_waits_for_names():
    clock, names = clock_at(), {"there": 1}
    async with running(":memory:", python=PythonRunner(names), clock=clock) as s:
        await s.add(Task("task", "there", Trigger.INTERVAL, "1m"))
        await s.wait()
        del names["there"]
        async with anyio.create_task_group() as group:
            group.start_soon(s.wait)
            clock.set(clock.now_us() + 60_000_000)  # it waits before the engine has looked
        assert [e.slot for e in s.executions()] == ["0"]


async def test_whoever_waits_learns_that_what_was_due_was_settled_elsewhere(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    clocks = clock_at(), clock_at()
    first, second = Script(), Script()
    async with running(str(path), first, clock=clocks[0]) as a, running(str(path), second, clock=clocks[1]) as b:
        for s in (a, b):
            await s.add(every("1m", first="next"))
        with monkeypatch.context() as broken:
            broken.setattr(b.engine, "due", lambda armed: b.engine.refused(armed, StoreError("locked")))
            clocks[1].set(clocks[1].now_us() + 60_000_000)
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(b.wait)
            await pass_time(MINUTE, a)
        assert len(first.slots + second.slots) == 1
