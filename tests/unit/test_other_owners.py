"""Two schedulers on one store: what one asks, changes or deletes is followed by the other."""

from pathlib import Path

import pytest

from car_sched_nb.store import records
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
    every,
    jump,
    pass_time,
    rest,
    running,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]


async def test_cancel_reaches_what_runs_and_waits_in_another_scheduler(path: Path):
    script = Script(held=True)
    async with running(str(path), script) as here, running(str(path)) as there:
        await here.add(every("1h", overlap="queue"))
        await script.begun.wait()
        await here.add(agent("waits", retries=1))
        await come_true(lambda: here.live("task"))
        assert await there.cancel("task") == 1
        assert [e.status for e in there.executions("task")] == ["cancelled"]
        assert here.live("task") == []


async def test_cancel_reaches_a_retry_that_waits_in_another_scheduler(path: Path):
    async with running(str(path), Script(fails=True)) as here, running(str(path)) as there:
        await here.add(every("1h", retries=1, retry_delay="1h"))
        await rest(here)
        assert await there.cancel("task") == 1
        assert attempts(there.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled")]


async def test_cancel_ends_what_waits_and_nobody_owns(store: SqliteStore):
    async with running(store, Script(fails=True)) as s:
        await s.add(every("1h", retries=1, retry_delay="1h"))
        await rest(s)
    async with running(store) as s:
        assert await s.cancel("task") == 1
        assert attempts(s.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled")]


async def test_a_cancel_that_nobody_lived_to_obey_is_obeyed(store: SqliteStore):
    clock, task = clock_at(), every("1h", retries=1, retry_delay="1h")
    async with running(store, Script(fails=True), clock=clock) as s:
        await s.add(task)
        await rest(s)
        with store.transaction() as db:
            assert records.ask_to_stop(db, s.task("task").id, "another", clock.now_us())
    clock.set(clock.now_us() + 2 * 3_600_000_000)
    async with running(store, script := Script(), clock=clock) as s:
        await s.add(task)
        await rest(s)
        assert attempts(s.executions("task"))[1] == ("0", 2, "cancelled")
        assert script.slots == ["2"]


async def test_delete_reaches_what_runs_and_waits_in_another_scheduler(path: Path):
    script = Script(lambda o: o.task == "waits", held=True)
    async with running(str(path), script) as here, running(str(path)) as there:
        await here.add(every("1h", "waits", retries=1, retry_delay="1h"))
        await script.begun.wait()
        script.step()
        await rest(here)
        await here.add(every("1h", "runs", overlap="queue"))
        await here.run_now("runs")
        await rest(here)
        for name in ("waits", "runs"):
            await there.delete(name)
        await come_true(lambda: not here.live())
        assert [e.status for e in there.executions()] == ["failed", "cancelled", "cancelled", "cancelled"]


async def test_a_definition_changed_elsewhere_takes_what_waits_with_it(path: Path):
    script = Script()
    async with (
        running(str(path), Script(fails=True), clock=clock_at()) as here,
        running(str(path), script, clock=clock_at()) as there,
    ):
        await here.add(every("1h", retries=1, retry_delay="1m", prompt="old"))
        await rest(here)
        await there.add(every("1h", retries=1, retry_delay="1m", prompt="new"))
        await come_true(lambda: not here.live() and there.live())
        await pass_time(2 * MINUTE, here, there)
        assert script.prompts == ["new"]
        assert attempts(there.executions("task")) == [("0", 1, "failed"), ("0", 2, "completed")]
        assert there.executions("task")[1].version == 1


async def test_pause_and_resume_elsewhere_hold_and_begin_what_waits_here(path: Path):
    script = Script(lambda o: o.attempt == 1)
    async with running(str(path), script, clock=clock_at()) as here, running(str(path)) as there:
        await here.add(every("1h", retries=1, retry_delay="1m"))
        await rest(here)
        await there.pause("task")
        await come_true(lambda: not here.engine.armed[here.task("task").id].task.enabled)
        await jump(2 * MINUTE, here)
        assert len(script.seen) == 1
        await there.resume("task")
        await come_true(lambda: len(script.seen) == 2)


async def test_a_run_that_fails_after_another_asked_it_to_stop_is_not_tried_again(path: Path):
    script = Script(fails=True, held=True)
    async with running(str(path), script, clock=clock_at()) as here:
        await here.add(every("1h", retries=1, retry_delay="1h"))
        await script.begun.wait()
        with here.store.transaction() as db:
            records.ask_to_stop(db, here.task("task").id, "another", here.clock.now_us())
        script.let_go()
        await rest(here)
        here._neighbours.look()
        await rest(here)
        assert attempts(here.executions("task")) == [("0", 1, "failed"), ("0", 2, "cancelled")]


async def test_a_newer_slot_replaces_a_run_of_another_scheduler(path: Path):
    held, script = Script(held=True), Script()
    async with (
        running(str(path), held, clock=clock_at()) as here,
        running(str(path), script, clock=clock_at()) as there,
    ):
        await here.add(every("1h", overlap="replace"))
        await held.begun.wait()
        await there.arm("task")
        await jump(HOUR, there)
        await come_true(lambda: not here.live())
        await pass_time(10 * SECOND, there)
        assert attempts(there.executions("task")) == [("0", 1, "cancelled"), ("1", 1, "completed")]
        assert script.slots == ["1"]


async def test_a_slot_queues_behind_a_run_of_another_scheduler(path: Path):
    held, script = Script(held=True), Script()
    async with (
        running(str(path), held, clock=clock_at()) as here,
        running(str(path), script, clock=clock_at()) as there,
    ):
        await here.add(every("1h", overlap="queue"))
        await held.begun.wait()
        await there.arm("task")
        await jump(HOUR, there)
        await come_true(there.live)
        await pass_time(10 * SECOND, there)
        assert attempts(there.executions("task")) == [("0", 1, "running"), ("1", 1, "waiting")]
        held.let_go()
        await come_true(lambda: not here.live())
        await pass_time(10 * SECOND, there)
        assert attempts(there.executions("task")) == [("0", 1, "completed"), ("1", 1, "completed")]


async def test_slots_that_come_while_another_scheduler_runs_the_task_each_end_in_one_row(path: Path):
    held = Script(held=True)
    async with (
        running(str(path), held, clock=clock_at()) as here,
        running(str(path), clock=clock_at()) as there,
    ):
        await here.add(every("1h"))
        await held.begun.wait()
        await there.arm("task")
        for _ in range(4):
            await jump(HOUR, there)
        held.let_go()
        await come_true(lambda: not here.live())
        await come_true(lambda: not any(armed.settling for armed in there.engine.armed.values()))
        await pass_time(10 * SECOND, there)
        covered = sorted(int(e.slot) + k for e in there.executions("task") for k in range(e.slots))
        assert covered == [0, 1, 2, 3, 4]
        assert there.executions("task")[-1].status == "completed"


async def test_failures_in_two_schedulers_are_one_row_of_failures(path: Path):
    async with (
        running(str(path), Script(fails=True), clock=clock_at()) as here,
        running(str(path), Script(fails=True), clock=clock_at()) as there,
    ):
        await here.add(every("1h", max_failures=3))
        await rest(here)
        await there.arm("task")
        for k in range(5):
            await jump(HOUR, *((here, there) if k % 2 else (there, here)))
            await come_true(lambda: not any(a.settling for s in (here, there) for a in s.engine.armed.values()))
        assert here.task("task").status == "disabled"
        assert [e.status for e in here.executions("task")] == ["failed", "failed", "failed"]
