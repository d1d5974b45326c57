"""The claims that car-scheduler's own tests make of its executor, made of ours."""

from datetime import timedelta

import pytest

from car_sched_nb.model import Task, Trigger, to_us
from car_sched_nb.occurrence import manual_slot, occurrence_id, slot_text
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.triggers import schedule_of
from tests.unit.world import MONDAY, Ear, Recorder, agent, every, once, running

INTERVAL = Task("t", "p", Trigger.INTERVAL, "60", id="t", anchored_at=MONDAY)


def occurrence_at(task: Task, after_s: float) -> str:
    schedule = schedule_of(task)
    assert schedule is not None
    fire = schedule.current(to_us(MONDAY + timedelta(seconds=after_s)))
    assert fire is not None
    return occurrence_id(task.id, task.trigger, slot_text(task.revision, fire.slot))


@pytest.mark.anyio
async def test_run_once_completes_and_is_counted(store: SqliteStore):
    async with running(store) as s:
        execution = await s.run_once(agent(prompt="do something"))
        assert execution.status == "completed"
        assert "completed" in (execution.answer or "")
        task = s.task("task")
        assert task.run_count == 1
        assert task.last_run_at is not None


@pytest.mark.anyio
async def test_two_runs_in_the_same_slot_of_an_interval_are_one(store: SqliteStore):
    recorder = Recorder()
    async with running(store, recorder) as s:
        first = await s.run_once(every("1h"))
        second = await s.run_once("task")
        assert first.execution_id == second.execution_id
        assert s.task("task").run_count == 1
        assert len(recorder.seen) == len(s.executions("task")) == 1


def test_an_intervals_occurrence_is_the_same_whenever_it_is_computed_within_its_slot():
    early, late, following = (occurrence_at(INTERVAL, after_s) for after_s in (10, 50, 70))
    assert early == late == "t:int:0"
    assert following == "t:int:1"


def test_a_crons_occurrence_says_that_it_is_one():
    task = Task("t", "p", Trigger.CRON, "0 9 * * *", id="t", tz="UTC", anchored_at=MONDAY)
    assert occurrence_at(task, 10) == "t:cron:20261123T090000Z"


def test_a_once_task_is_one_occurrence_whatever_the_time():
    task = Task("t", "p", Trigger.ONCE, id="t", fire_at=MONDAY)
    assert occurrence_at(task, 0) == occurrence_at(task, 3 * 86_400) == "t:once:0"


def test_a_run_by_hand_has_an_occurrence_of_its_own():
    assert schedule_of(Task("t", "p", id="t")) is None
    assert manual_slot() != manual_slot()


def test_a_file_watch_occurrence_is_its_content():
    first, again, other = (occurrence_id("t", Trigger.FILE_WATCH, digest) for digest in ("abcd", "abcd", "1234"))
    assert first == again
    assert first != other


@pytest.mark.anyio
async def test_a_once_task_does_not_fire_again(store: SqliteStore):
    async with running(store) as s:
        first = await s.run_once(once())
    async with running(store) as s:  # a restart
        second = await s.run_once(once())
        assert first.execution_id == second.execution_id
        assert s.task("task").run_count == 1
        assert len(s.executions("task")) == 1


@pytest.mark.anyio
async def test_a_failed_occurrence_can_be_tried_again(store: SqliteStore):
    recorder = Recorder()
    recorder.error = RuntimeError("boom")
    async with running(store, recorder) as s:
        await s.run_once(once(name="flaky"))
        await s.run_once("flaky")
        assert s.task("flaky").run_count == 2
        assert [e.status for e in s.executions("flaky")] == ["failed", "failed"]


@pytest.mark.anyio
async def test_runs_by_hand_are_never_taken_for_one(store: SqliteStore):
    async with running(store) as s:
        first = await s.run_once(agent())
        second = await s.run_once("task")
        assert first.execution_id != second.execution_id
        assert s.task("task").run_count == 2


@pytest.mark.anyio
async def test_a_spawned_task_runs_until_it_is_cancelled(store: SqliteStore):
    recorder = Recorder()
    async with running(store, recorder) as s:
        handle = s.spawn(every("10ms"))
        await recorder.begun.wait()
        handle.cancel()
        executions = await handle
        assert executions
        assert executions == handle.executions
        assert handle.task_id == s.task("task").id


@pytest.mark.anyio
async def test_a_changed_file_runs_its_task(store: SqliteStore, tmp_path):
    watched = tmp_path / "watched.txt"
    watched.write_text("v1")
    async with running(store) as s:
        task = agent("watcher", Trigger.FILE_WATCH, watch_path=str(watched))
        ear = Ear(s)
        handle = s.spawn(task, max_iterations=1)
        await ear.hears("armed")
        watched.write_text("v2")
        executions = await handle
        assert len(executions) == 1
        assert "completed" in (executions[0].answer or "")
