"""What ended badly or never began, run again because somebody asks; and who else plans a task."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput, UnknownExecution, UnknownTask
from car_sched_nb.model import Cause, Execution
from car_sched_nb.options import make_task, parse_cell
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.typed import read_again
from tests.unit.world import (
    HOUR,
    Recorder,
    Script,
    agent,
    attempts,
    clock_at,
    come_true,
    every,
    follower,
    jump,
    pass_time,
    rest,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def ended(s: Scheduler, name: str = "task") -> Execution:
    """Return a task's newest execution, at rest."""
    await rest(s)
    return s.executions(name)[-1]


async def failed_once(s: Scheduler, **fields: Any) -> Execution:
    """Add a task, run it by hand, and return the execution, which failed."""
    await s.add(agent(**fields))
    await s.run_now("task")
    failed = await ended(s)
    assert failed.status == "failed"
    return failed


async def test_a_failed_slot_is_tried_again_as_its_next_attempt(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt < 3)
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", params={"n": 1}))
        failed = await ended(s)
        again = await s.retry(failed.execution_id)
        assert (again.occurrence_id, again.slot, again.attempt) == (failed.occurrence_id, "0", 2)
        assert (again.cause, again.scheduled_at, again.params) == (Cause.HAND, failed.scheduled_at, {"n": 1})
        await rest(s)
        await s.retry(failed.execution_id)  # whichever of its attempts is named
        await pass_time(HOUR, s)
        assert attempts(s.executions()) == [
            ("0", 1, "failed"),
            ("0", 2, "failed"),
            ("0", 3, "completed"),
            ("1", 1, "failed"),
        ]


async def test_what_completed_runs_or_waits_is_not_tried_again(store: SqliteStore):
    script = Script(lambda o: o.attempt == 1)
    async with running(store, script) as s:
        failed = await failed_once(s)
        script.hold()
        await s.retry(failed.execution_id)
        with pytest.raises(InvalidInput, match="attempt 2 is running already"):
            await s.retry(failed.execution_id)
        script.let_go()
        done = await ended(s)
        with pytest.raises(InvalidInput, match="attempt 2 is completed already"):
            await s.retry(failed.execution_id)
        with pytest.raises(InvalidInput, match="it is completed, and nothing of it failed"):
            await s.retry(done.execution_id)
        with pytest.raises(UnknownExecution, match="no execution is 'nobody'"):
            await s.retry("nobody")
        assert len(s.executions()) == 2


async def test_a_task_that_runs_is_not_run_beside_itself_by_a_retry(store: SqliteStore):
    script = Script(fails=True)
    async with running(store, script) as s:
        failed = await failed_once(s)
        script.hold()
        await s.run_now("task")
        with pytest.raises(InvalidInput, match="task is running; cancel it"):
            await s.retry(failed.execution_id)
        script.let_go()


@pytest.mark.parametrize("overlap", ["queue", "replace", "allow"])
async def test_a_retry_follows_the_tasks_overlap(store: SqliteStore, overlap: str):
    script = Script(lambda o: o.attempt == 1)
    async with running(store, script) as s:
        failed = await failed_once(s, overlap=overlap)
        script.hold()
        await s.run_now("task")
        await rest(s)
        await s.retry(failed.execution_id)
        await rest(s)
        assert script.inside == (2 if overlap == "allow" else 1)
        script.let_go()
        await rest(s)
        said = {e.execution_id: str(e.status) for e in s.executions()}
        assert said[f"{failed.occurrence_id}#2"] == "completed"
        assert sorted(said.values()).count("cancelled") == (overlap == "replace")


@pytest.mark.parametrize("overlap", ["skip", "replace", "allow", "queue"])
async def test_two_clicks_on_retry_try_again_once(store: SqliteStore, overlap: str):
    script = Script(lambda o: o.attempt == 1)
    async with running(store, script) as s:
        failed = await failed_once(s, overlap=overlap)
        script.hold()
        refused = []

        async def click() -> None:
            try:
                await s.retry(failed.execution_id)
            except InvalidInput as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(click)
        script.let_go()
        await rest(s)
        assert refused == ["its attempt 2 is running already"]
        assert [(e.attempt, str(e.status)) for e in s.executions()] == [(1, "failed"), (2, "completed")]


async def test_a_paused_task_is_tried_again_and_stays_paused(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock, max_running=1) as s:
        await s.add(every("1h"))
        failed = await ended(s)
        await s.pause("task")
        await s.add(agent("other"))
        script.hold()
        await s.run_now("other")
        await s.retry(failed.execution_id)  # it waits for a place, as any other
        script.let_go()
        assert (await ended(s)).status == "completed"
        assert not s.task("task").enabled


async def test_a_cancelled_and_a_deleted_tasks_run(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script) as s:
        await s.add(agent())
        await s.run_now("task")
        await rest(s)
        await s.cancel("task")
        cancelled = await ended(s)
        script.let_go()
        await s.retry(cancelled.execution_id)
        assert (await ended(s)).status == "completed"
        await s.run_now("task")
        await s.delete("task")
        with pytest.raises(UnknownTask):
            await s.retry(cancelled.execution_id)


async def test_another_namespaces_execution_is_not_found(path: Path):
    async with running(str(path), Script(fails=True), namespace="one") as s:
        failed = await failed_once(s)
    async with running(str(path), namespace="two") as s:
        with pytest.raises(UnknownExecution):
            await s.retry(failed.execution_id)
        with pytest.raises(UnknownExecution):
            await s.run_slot(failed.execution_id)


async def missed(s: Scheduler, clock: Any, **fields: Any) -> Execution:
    """Return the row of five slots that passed while the machine slept."""
    await s.add(every("1h", **fields))
    await rest(s)
    await jump(6 * HOUR, s)
    found = [e for e in s.executions() if e.status == "missed"]
    assert [(e.slot, e.slots) for e in found] == [("1", 5)]
    return found[0]


async def test_a_missed_row_runs_all_its_slots_once(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        row = await missed(s, clock)
        assert await s.run_slot(row.execution_id) == 5
        assert await s.wait(timeout_s=10)
        assert script.slots == ["0", "6", "1", "2", "3", "4", "5"]
        with pytest.raises(InvalidInput, match="it has run meanwhile"):
            await s.run_slot(row.execution_id)


async def test_only_the_row_that_was_asked_for_runs(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        row = await missed(s, clock)
        await jump(3 * HOUR, s)
        assert [e.slots for e in s.executions() if e.status == "missed"] == [5, 2]
        await s.run_slot(row.execution_id)
        await s.wait()
        assert script.slots[3:] == ["1", "2", "3", "4", "5"]


async def test_a_row_that_stands_for_very_many_slots_is_run_in_parts(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1s"))
        await rest(s)
        await jump(HOUR, s)
        gap = next(e for e in s.executions() if e.status == "missed")
        with pytest.raises(InvalidInput, match="stands for 3,599 slots; run a part of them: %car backfill task"):
            await s.run_slot(gap.execution_id)


async def test_a_skipped_run_by_hand_is_run_now(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script) as s:
        await s.add(agent())
        await s.run_now("task")
        await rest(s)
        skipped = await s.run_now("task", params={"n": 2})
        script.let_go()
        await rest(s)
        assert await s.run_slot(skipped.execution_id) == 1
        assert ((await ended(s)).status, (await ended(s)).params) == ("completed", {"n": 2})


async def test_a_skipped_follower_is_run_now(store: SqliteStore):
    script = Script(lambda o: o.task == "up")
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.add(follower("up"))
        await s.run_now("up")
        skipped = await ended(s)
        assert short([skipped])[0][0] == "skipped"
        await s.run_slot(skipped.execution_id)
        assert (await ended(s)).status == "completed"


async def test_what_ran_is_no_missed_slot(store: SqliteStore):
    async with running(store) as s:
        await s.add(agent())
        await s.run_now("task")
        with pytest.raises(InvalidInput, match="it is completed, not missed or skipped"):
            await s.run_slot((await ended(s)).execution_id)


async def test_who_else_plans_a_task(path: Path):
    async with (
        running(str(path), Recorder(), owner_name="other.ipynb") as a,
        Scheduler(str(path), runner=Recorder()) as b,
    ):
        task = await a.add(every("1h", first="next"))
        await a.define(every("1h", "idle", first="next"))
        assert (a.armed_elsewhere(), b.armed_elsewhere()) == ({}, {task.id: "other.ipynb"})
        await b.arm("task")
        assert a.armed_elsewhere() == {task.id: b.owner_name}
        await a.disarm("task")
        assert b.armed_elsewhere() == {}
        await a.arm("task")
        await b.add(every("2h", first="next"))  # which disarms it there
        await come_true(lambda: not b.armed_elsewhere())
        assert b.armed_elsewhere() == {}
        await b.delete("task")
        assert a.armed_elsewhere() == {}


@pytest.mark.parametrize(
    ("given", "kept", "wanted"),
    [
        ("", "", {"failed", "recovered"}),
        ("completed, failed", "failed,completed", {"failed", "completed"}),
        ("none", "none", set()),
        ("failed,recovered,completed", "failed,recovered,completed", {"failed", "recovered", "completed"}),
    ],
)
async def test_what_is_worth_a_notice(store: SqliteStore, given: str, kept: str, wanted: set[str]):
    async with running(store) as s:
        task = await s.add(agent(notify=given))
        assert task.notify == kept
        assert {kind for kind in ("failed", "recovered", "completed") if task.notifies(kind)} == wanted


@pytest.mark.parametrize("given", ["all", "failed,none", "fail"])
async def test_an_unknown_notice_is_refused(store: SqliteStore, given: str):
    async with running(store) as s:
        with pytest.raises(InvalidInput, match="--notify is none, or some of failed,recovered,completed"):
            await s.add(agent(notify=given))
        assert s.tasks() == []


EVERYTHING = "failed,recovered,completed"


@pytest.mark.parametrize(
    ("line", "body", "notify"),
    [
        ("--notify task", "", EVERYTHING),
        ("task --notify", "", EVERYTHING),
        ("task --notify --every 5m", "", EVERYTHING),
        ("--notify completed task", "", "completed"),
        ("task --notify=failed,completed", "", "failed,completed"),
        ("task", "#| notify: true\n", EVERYTHING),
        ("task", "#| notify: none\n", "none"),
    ],
)
async def test_notices_are_chosen_on_the_line_or_below_it(line: str, body: str, notify: str):
    task = parse_cell(line, body + "1").task
    assert (task.name, task.notify) == ("task", notify)
    async with running(":memory:") as s:
        stored = await s.add(task)
    again = read_again(stored)
    assert again.notify == notify


async def test_notices_of_a_function_are_chosen_by_the_same_words():
    assert make_task("task", "1", {"notify": True}).notify == EVERYTHING
    assert make_task("task", "1", {"notify": "completed"}).notify == "completed"
