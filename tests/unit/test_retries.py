"""A failed run is tried again: when, how often, and what of it counts."""

from datetime import timedelta

import anyio.lowlevel
import pytest

from car_sched_nb.engine.policy import LONGEST_DELAY_US, jitter_us, retry_delay_us
from car_sched_nb.model import Cause, Status
from car_sched_nb.runners.base import AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    HOUR,
    MINUTE,
    SECOND,
    Ear,
    Script,
    agent,
    attempts,
    clock_at,
    every,
    now,
    once,
    pass_time,
    rest,
    running,
)

pytestmark = pytest.mark.anyio


def test_delays_double_from_ten_seconds_up_to_an_hour():
    found = [retry_delay_us(agent(retries=20), "x", attempt) / 1e6 for attempt in range(1, 21)]
    for attempt, delay in enumerate(found):
        plain = min(10 * 2**attempt, 3600)
        assert plain <= delay <= plain * 1.1


def test_a_delay_that_was_asked_for_longer_than_an_hour_is_kept():
    delay = retry_delay_us(agent(retries=3, retry_delay="2h"), "x", 3)
    assert 2 * LONGEST_DELAY_US <= delay <= 2.2 * LONGEST_DELAY_US


def test_the_spread_belongs_to_the_execution_and_differs_between_them():
    task = agent(retries=3, retry_delay="100s")
    found = {retry_delay_us(task, f"x{k}", 1) for k in range(50)}
    assert len(found) == 50
    assert max(found) <= 110_000_000
    assert retry_delay_us(task, "x", 1) == retry_delay_us(task, "x", 1)


def test_no_delay_is_no_delay_and_no_attempt_is_too_many_to_count():
    assert retry_delay_us(agent(retries=3, retry_delay="0"), "x", 2) == 0
    assert retry_delay_us(agent(retries=3), "x", 10_000) <= LONGEST_DELAY_US * 1.1


async def test_a_failed_run_is_tried_again_after_its_delay_and_not_before(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt < 3)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=2, retry_delay="1m"))
        await pass_time(59 * SECOND, s)
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "waiting")]
        waits = s.executions("task")[1]
        assert (waits.wait_reason, waits.cause, waits.started_at) == ("retry delay", Cause.RETRY, None)
        assert waits.not_before is not None
        assert MINUTE <= waits.not_before - waits.scheduled_at <= MINUTE * 1.1
        await pass_time(10 * SECOND, s)
        assert attempts(s.executions("task"))[1:] == [("0", 2, "failed"), ("0", 3, "waiting")]
        await pass_time(3 * MINUTE, s)
        assert attempts(s.executions("task"))[2] == ("0", 3, "completed")
        done = s.executions("task")[2]
        assert (done.wait_reason, done.not_before) == (None, None)


async def test_after_its_last_attempt_an_occurrence_has_failed(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=2, retry_delay="1s"))
        await pass_time(10 * MINUTE, s)
        assert attempts(s.executions("task")) == [("0", k, "failed") for k in (1, 2, 3)]
        assert len(set(script.ids)) == 3
        assert {o.id for o in script.seen} == {script.ids[0]}


async def test_slots_that_come_between_two_attempts_are_skipped_as_one_row(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0" and o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", retries=1, retry_delay="3m30s"))
        await pass_time(5 * MINUTE, s)
        assert script.slots == ["0", "0", "4", "5"]
        (skipped,) = [e for e in s.executions("task") if e.status is Status.SKIPPED]
        assert (skipped.slot, skipped.slots, skipped.reason) == ("1", 3, "overlap")


async def test_slots_that_come_between_two_attempts_queue_behind_the_retry(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0" and o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", retries=1, retry_delay="150s", overlap="queue"))
        await pass_time(4 * MINUTE, s)
        assert script.slots == ["0", "0", "1", "2", "3", "4"]


async def test_a_newer_slot_replaces_the_retry_that_waits(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", retries=3, retry_delay="10m", overlap="replace"))
        await pass_time(MINUTE, s)
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled"), ("1", 1, "completed")]
        assert s.executions("task")[1].reason == "replaced"


async def test_where_runs_may_overlap_a_retry_keeps_no_slot_waiting(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0" and o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", retries=1, retry_delay="90s", overlap="allow"))
        await pass_time(2 * MINUTE, s)
        assert script.slots == ["0", "1", "0", "2"]


async def test_a_run_that_takes_too_long_is_tried_again(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)
    async with running(store, script, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("1h", retries=1, retry_delay="0", timeout="20ms"))
        while not (await ear.hears("finished")).final:
            pass
        assert attempts(s.executions("task")) == [("0", 1, "timed_out"), ("0", 2, "timed_out")]


async def test_cancel_ends_the_retry_that_waits_and_the_next_slot_runs(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.slot == "0")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=3, retry_delay="1m"))
        await rest(s)
        assert await s.cancel("task") == 1
        await pass_time(HOUR, s)
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled"), ("1", 1, "completed")]


async def test_a_run_that_fails_because_it_was_cancelled_is_not_tried_again(store: SqliteStore):
    clock, script = clock_at(), Script(held=True)

    async def stubborn(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        try:
            await script.run(spec, prompt, runtime, mailbox)
        finally:
            raise ValueError("no connection to clean up with")

    async with running(store, clock=clock) as s:
        s.register("agent", stubborn)
        await s.add(every("1h", retries=3, retry_delay="1m"))
        await script.begun.wait()
        await s.cancel("task")
        assert s.live() == []
        assert [(e.attempt, e.status) for e in s.executions("task")] == [(1, "failed")]


async def test_a_cancel_while_a_failure_is_being_stored_ends_the_retry_too(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True, held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=3, retry_delay="1m"))
        await script.begun.wait()
        (run,) = s.live()
        with store.transaction():  # the writer has to wait
            script.let_go()
            while run.finish is None:
                await anyio.lowlevel.checkpoint()
            s.cancel_soon("task")
        await rest(s)
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled")]


async def test_run_once_returns_the_last_attempt(store: SqliteStore):
    script = Script(lambda o: o.attempt < 3)
    async with running(store, script) as s:
        done = await s.run_once(once(retries=4, retry_delay="0"))
        assert (done.status, done.attempt) == ("completed", 3)
        assert await s.run_once("task") == done


async def test_run_loop_counts_occurrences_and_not_attempts(store: SqliteStore):
    script = Script(lambda o: o.attempt < 2)
    async with running(store, script) as s:
        done = await s.run_loop(every("10ms", retries=1, retry_delay="0", catchup="all"), max_iterations=3)
        assert attempts(done) == [(str(k), 2, "completed") for k in range(3)]
        assert len(script.seen) == 6


async def test_a_run_by_hand_is_tried_again_too(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(agent(retries=1, retry_delay="1m", params={"a": 1}))
        await s.run_now("task", params={"a": 2})
        await pass_time(2 * MINUTE, s)
        assert [(e.attempt, e.status, e.params) for e in s.executions("task")] == [
            (1, "failed", {"a": 2}),
            (2, "completed", {"a": 2}),
        ]


async def test_pause_holds_a_retry_until_the_task_is_resumed(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(once(retries=1, retry_delay="1m"))
        await rest(s)
        await s.pause("task")
        await pass_time(HOUR, s)
        assert attempts(s.executions("task"))[1] == ("0", 2, "waiting")
        assert await s.wait()  # nothing is due while it is paused
        await s.resume("task")
        await rest(s)
        assert attempts(s.executions("task"))[1] == ("0", 2, "completed")


async def test_delete_cancels_a_retry_that_waits(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=1))
        await rest(s)
        await s.delete("task")
        await pass_time(HOUR, s)
        assert attempts(s.executions()) == [("0", 1, "failed"), ("0", 2, "cancelled")]


async def test_a_corrected_body_is_what_the_next_attempt_runs(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", retries=1, prompt="brokn"))
        await rest(s)
        await s.add(every("1h", retries=1, prompt="right"))
        await pass_time(MINUTE, s)
        assert script.prompts == ["brokn", "right"]
        assert s.executions("task")[1].version == 1


async def test_jitter_begins_a_slot_later_by_a_chance_of_its_own_and_moves_no_grid(store: SqliteStore, known_ids: None):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        task = await s.add(every("1h", jitter="30m"))
        start = now(clock)
        await pass_time(5 * HOUR + 30 * MINUTE, s)
        rows = s.executions("task")
        assert [e.scheduled_at - start for e in rows] == [k * HOUR for k in range(6)]
        late = [e.lateness for e in rows]
        assert late == [timedelta(microseconds=jitter_us(task, e.occurrence_id)) for e in rows]
        assert len(set(late)) == 6
        assert max(filter(None, late)) < 30 * MINUTE


async def test_a_slot_that_is_late_by_more_than_its_jitter_begins_at_once(store: SqliteStore, known_ids: None):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h", jitter="10m"))
        clock.set(clock.now_us() + 3 * 3_600_000_000 + 1_800_000_000)
        await s.arm("task")
        await rest(s)
        assert script.slots == ["3"]
        assert s.executions("task")[1].lateness == 30 * MINUTE


async def test_a_slot_that_is_caught_up_within_its_jitter_waits_for_it(store: SqliteStore, known_ids: None):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        task = await s.define(every("1h", jitter="59m"))
        clock.set(clock.now_us() + 3 * 3_600_000_000 + 1_000_000)
        await s.arm("task")
        await rest(s)
        waits = s.executions("task")[1]
        assert (waits.slot, waits.status, waits.wait_reason) == ("3", "waiting", "jitter")
        await pass_time(59 * MINUTE, s)
        assert s.executions("task")[1].lateness == timedelta(microseconds=jitter_us(task.task, waits.occurrence_id))


async def test_slots_that_are_all_caught_up_are_each_tried_again_before_the_next(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.define(every("1h", catchup="all", retries=1, retry_delay="10s"))
        clock.set(clock.now_us() + 3 * 3_600_000_000)
        await s.arm("task")
        await pass_time(5 * MINUTE, s)
        assert attempts(s.executions("task")) == [
            (str(k), n, status) for k in range(4) for n, status in ((1, "failed"), (2, "completed"))
        ]


async def test_a_retry_has_no_jitter(store: SqliteStore, known_ids: None):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", jitter="30m", retries=1, retry_delay="0"))
        await pass_time(31 * MINUTE, s)
        first, second = s.executions("task")
        assert (first.status, second.status) == ("failed", "completed")
        assert first.finished_at == second.started_at
