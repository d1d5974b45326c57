"""What becomes of a slot that comes while a run goes on: skipped, queued, instead of the run, or beside it."""

from datetime import timedelta

import anyio
import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Cause, Status
from car_sched_nb.runners.base import AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    HOUR,
    MINUTE,
    SECOND,
    Script,
    agent,
    attempts,
    clock_at,
    come_true,
    cron,
    every,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def one_run_ends(script: Script, scheduler: Scheduler) -> None:
    """Let what is held now end, and hold what begins after it."""
    script.step()
    await rest(scheduler)


async def test_a_queued_slot_is_a_row_that_says_so_and_runs_when_its_turn_comes(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "running"), ("1", 1, "waiting")]
        assert s.executions("task")[1].wait_reason == "queue"
        script.let_go()
        await rest(s)
        assert attempts(s.executions("task")) == [("0", 1, "completed"), ("1", 1, "completed")]
        assert s.executions("task")[1].lateness == timedelta(0)


async def test_a_long_backlog_runs_in_its_order_one_at_a_time_and_each_slot_once(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(30 * MINUTE, s)
        for slot in range(30):
            assert script.slots == [str(k) for k in range(slot + 1)]
            assert script.inside == 1
            await one_run_ends(script, s)
        script.let_go()
        await pass_time(MINUTE, s)
        assert script.slots == [str(k) for k in range(32)]
        assert {e.status for e in s.executions("task")} == {Status.COMPLETED}


@pytest.mark.parametrize("catchup", ["latest", "none"])
@pytest.mark.parametrize("runs", [1, 2])
async def test_the_last_of_a_queue_runs_however_late_its_turn_comes(store: SqliteStore, catchup: str, runs: int):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue", catchup=catchup, until="in 5m"))
        await pass_time(runs * MINUTE + 30 * SECOND, s)
        for _ in range(runs):
            await one_run_ends(script, s)
            await pass_time(HOUR, s)
        script.let_go()
        await rest(s)
        assert script.slots == ["0", "1", "2", "3", "4", "5"]


async def test_after_its_queue_a_task_follows_its_catch_up_again(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(2 * MINUTE, s)
        script.let_go()
        await pass_time(MINUTE, s)
        clock.set(clock.now_us() + 600_000_000)
        await rest(s)
        assert script.slots == ["0", "1", "2", "3", "13"]
        assert short(s.executions("task"))[4] == ("missed", "4", 9)


async def test_cancel_ends_the_run_and_what_is_queued_behind_it(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(MINUTE, s)
        assert await s.cancel("task") == 2
        assert attempts(s.executions("task")) == [("0", 1, "cancelled"), ("1", 1, "cancelled")]
        await pass_time(MINUTE, s)
        assert script.slots == ["0", "2"]


async def test_pause_keeps_what_is_queued_and_resume_runs_it(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(MINUTE, s)
        await s.pause("task")
        script.let_go()
        await pass_time(10 * MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "completed"), ("1", 1, "waiting")]
        await s.resume("task")
        await pass_time(MINUTE, s)
        assert script.slots == ["0", "1", "12"]
        assert [(e.slot, e.slots) for e in s.executions("task") if e.reason == "paused"] == [("2", 10)]


async def test_delete_cancels_what_is_queued(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await pass_time(MINUTE, s)
        await s.delete("task")
        await pass_time(MINUTE, s)
        assert attempts(s.executions()) == [("0", 1, "cancelled"), ("1", 1, "cancelled")]
        assert s.live() == []


async def test_a_newer_slot_replaces_the_run_and_its_row_says_so(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="replace"))
        await pass_time(2 * MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "cancelled"), ("1", 1, "cancelled"), ("2", 1, "running")]
        assert [e.reason for e in s.executions("task")] == ["replaced", "replaced", None]
        assert script.interrupted == 2


async def test_of_the_slots_that_come_while_a_run_is_slow_to_stop_the_newest_runs(store: SqliteStore):
    clock, script, may_stop = clock_at(), Script(held=True), anyio.Event()

    async def slow_to_stop(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        try:
            await script.run(spec, prompt, runtime, mailbox)
        finally:
            if runtime.slot == "0":
                with anyio.CancelScope(shield=True):
                    await may_stop.wait()
        return ""

    async with running(store, clock=clock) as s:
        s.register("agent", slow_to_stop)
        await s.add(every("1m", overlap="replace"))
        await script.begun.wait()
        for _ in range(4):
            await clock.idle()
            clock.set(clock.now_us() + 60_000_000)
        await come_true(lambda: script.interrupted)
        assert script.slots == ["0"]
        assert short(s.executions("task")) == [("running", "0", 1)]
        script.let_go()
        may_stop.set()
        await s.wait()
        assert short(s.executions("task")) == [("cancelled", "0", 1), ("skipped", "1", 3), ("completed", "4", 1)]
        assert s.executions("task")[1].reason == "overlap"


async def test_a_replaced_run_is_not_tried_again(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="replace", retries=3, retry_delay="0"))
        await pass_time(MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "cancelled"), ("1", 1, "running")]


async def test_a_slot_that_waits_for_its_jitter_is_in_the_way_of_the_next(store: SqliteStore, known_ids: None):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(cron("* * * * *", jitter="1h"))
        await pass_time(5 * MINUTE, s)
        assert short(s.executions("task"))[:2] == [
            ("waiting", "20261123T090100Z", 1),
            ("skipped", "20261123T090200Z", 4),
        ]


@pytest.mark.parametrize(
    ("overlap", "statuses"),
    [
        ("skip", ["running", "skipped"]),
        ("queue", ["running", "waiting"]),
        ("replace", ["cancelled", "running"]),
        ("allow", ["running", "running"]),
    ],
)
async def test_a_run_by_hand_meets_a_run_as_a_slot_does(store: SqliteStore, overlap: str, statuses: list[str]):
    script = Script(held=True)
    async with running(store, script) as s:
        await s.add(agent(overlap=overlap))
        await s.run_now("task")
        await rest(s)
        second = await s.run_now("task")
        await rest(s)
        assert [e.status for e in s.executions("task")] == statuses
        assert second.cause == Cause.HAND
        script.let_go()
        await s.wait()
        assert not any(e.status in ("running", "waiting") for e in s.executions("task"))


async def test_runs_by_hand_stand_in_the_same_queue_as_slots(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue"))
        await rest(s)
        first = await s.run_now("task")
        await pass_time(MINUTE, s)
        second = await s.run_now("task")
        script.let_go()
        await rest(s)
        assert script.slots == ["0", first.slot, "1", second.slot]


async def test_a_run_by_hand_is_not_queued_behind_a_retry_when_overlap_is_allowed(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", overlap="allow", retries=1))
        await rest(s)
        await s.run_now("task")
        await rest(s)
        assert [e.status for e in s.executions("task")] == ["failed", "waiting", "completed"]


async def test_a_run_by_hand_while_a_retry_waits_is_skipped_by_default(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=1))
        await rest(s)
        assert (await s.run_now("task")).status == "skipped"


async def test_queued_runs_at_their_limit_begin_in_order(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock, max_running=1) as s:
        for name in "ab":
            await s.add(every("1m", name, overlap="queue"))
        await pass_time(2 * MINUTE, s)
        assert script.inside == 1
        script.let_go()
        await rest(s)
        for name in "ab":
            assert [o.slot for o in script.seen if o.task == name] == ["0", "1", "2"]


async def skips(clock: VirtualClock, s: Scheduler, count: int) -> list[tuple[str, str, int]]:
    await pass_time(count * MINUTE, s)
    return [row for row in short(s.executions("task")) if row[0] == "skipped"]


async def test_skipped_slots_of_two_runs_are_two_rows_and_of_one_run_one(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m"))
        assert await skips(clock, s, 7) == [("skipped", "1", 7)]
        await one_run_ends(script, s)
        await pass_time(MINUTE, s)
        assert await skips(clock, s, 3) == [("skipped", "1", 7), ("skipped", "9", 3)]


async def test_a_queued_slot_counts_as_a_run_when_it_is_claimed(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", overlap="queue", max_runs=2))
        await pass_time(5 * MINUTE, s)
        script.let_go()
        await pass_time(HOUR, s)
        assert short(s.executions("task")) == [("completed", "0", 1), ("completed", "1", 1)]
