"""What the scheduler that this one re-imagines got wrong, and what prevents each of it here; numbered as found."""

import gc
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_sched_nb.errors import InvalidInput, TaskPaused
from car_sched_nb.model import Status, Task, Trigger
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Progress, Runtime
from car_sched_nb.store import retention
from car_sched_nb.store.owners import Owner
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
    now,
    once,
    running,
    short,
)

pytestmark = pytest.mark.anyio


# 1
async def test_a_daily_cron_runs_once_a_day_and_not_each_minute(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(cron("0 9 * * *"))
        await advance(s, clock, 23 * HOUR)
        assert recorder.slots == []
        await advance(s, clock, 2 * DAY)
        assert recorder.slots == ["20261124T090000Z", "20261125T090000Z"]


# 2
@pytest.mark.parametrize("interval", ["-5", "-5s", "nan", "inf", "-inf", "0", "0s", "1e400", "9ms", "", "banana"])
async def test_an_interval_that_is_no_length_is_refused_and_nothing_is_stored(store: SqliteStore, interval: str):
    async with running(store) as s:
        with pytest.raises(InvalidInput):
            await s.add(every(interval))
        assert s.tasks() == []


# 3
async def test_a_dropped_handle_neither_stops_the_task_nor_spins(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        handle = s.spawn(every("1m"))
        await ear.hears("finished")
        del handle
        gc.collect()
        await s.wait()
        assert recorder.slots == ["0"]
        await advance(s, clock, 3 * MINUTE)
        assert recorder.slots == ["0", "1", "2", "3"]


# 4
async def test_a_cancelled_runner_is_interrupted_and_not_completed(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder) as s:
        handle = s.spawn(every("1h"))
        await recorder.begun.wait()
        handle.cancel()
        (execution,) = await handle
        assert recorder.interrupted == 1
        assert execution.status == "cancelled"
        assert s.executions("task") == [execution]


# 5
async def test_intervals_below_a_second_lose_no_slot_to_deduplication(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("10ms"))
        await advance(s, clock, timedelta(milliseconds=500))
        assert recorder.slots == [str(k) for k in range(51)]


# 5
async def test_slots_that_were_skipped_do_not_count_as_iterations(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        handle = s.spawn(every("1m"), max_iterations=2)
        await recorder.begun.wait()
        await skip_slots(clock, Ear(s), 3)
        recorder.let_go()
        while len(handle.executions) < 2:
            await advance(s, clock, MINUTE)
        assert [e.slot for e in await handle] == ["0", "4"]


async def skip_slots(clock, ear: Ear, count: int) -> None:
    for _ in range(count):
        await clock.idle()
        clock.set(clock.now_us() + 60_000_000)
        await ear.hears("gap")


# 6
async def test_a_run_that_takes_long_does_not_move_the_grid(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1s"))
        await s.wait()
        for _ in range(20):
            recorder.hold()
            clock.set(clock.now_us() + (700_000 if recorder.seen[1:] else 1_000_000))
            await recorder.begun.wait()
            clock.set(clock.now_us() + 300_000)  # the run takes 0.3 s
            recorder.let_go()
            await s.wait()
        start = recorder.seen[0].scheduled_at
        assert [o.scheduled_at - start for o in recorder.seen] == [SECOND * k for k in range(len(recorder.seen))]


# 7
async def test_a_changed_interval_does_not_meet_the_slots_of_the_one_before(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("5m"))
        await advance(s, clock, 10 * MINUTE)
        assert recorder.slots == ["0", "1", "2"]
        await s.add(every("1h"))
        await advance(s, clock, 2 * HOUR)
        assert recorder.slots == ["0", "1", "2", "r1.0", "r1.1", "r1.2"]


# 8
async def test_content_that_comes_back_runs_again(store: SqliteStore, tmp_path: Path):
    watched, recorder = tmp_path / "data.txt", Recorder()
    watched.write_text("A")
    async with running(store, recorder) as s:
        ear = Ear(s)
        await s.add(agent(trigger=Trigger.FILE_WATCH, watch_path=str(watched)))
        for content in "BABAB":
            watched.write_text(content)
            await ear.hears("finished")
        assert len(set(recorder.ids)) == 5
        assert [e.status for e in s.executions("task")] == ["completed"] * 5


# 8
async def test_each_deletion_is_an_occurrence_of_its_own(store: SqliteStore, tmp_path: Path):
    watched, recorder = tmp_path / "data.txt", Recorder()
    watched.write_text("A")
    async with running(store, recorder) as s:
        ear = Ear(s)
        await s.add(agent(trigger=Trigger.FILE_WATCH, watch_path=str(watched)))
        for step in range(4):
            watched.write_text("A") if step % 2 else watched.unlink()
            await ear.hears("finished")
        assert len(set(recorder.ids)) == 4


# 9
async def test_a_stale_running_record_does_not_block_once_for_ever(path: Path):
    recorder = Recorder(held=True)
    store = SqliteStore(path)
    async with running(store, recorder) as s:
        s.spawn(once())
        await recorder.begun.wait()
        # What a kernel that was killed leaves: a running row, and a lock that the system has freed.
        rows = store.rows("SELECT execution_id, owner FROM executions WHERE status = 'running'")
        assert len(rows) == 1
    with store.transaction() as db:
        db.execute("UPDATE executions SET status = 'running', finished_at = NULL")
        db.execute("UPDATE owners SET ended_at = NULL")
    async with running(store) as s:
        assert s.interrupted == [rows[0][0]]
        again = await s.run_once("task")
        assert (again.status, again.attempt) == ("completed", 2)
    store.close()


# 9
async def test_a_run_of_an_owner_that_died_meanwhile_does_not_block_a_living_scheduler(path: Path):
    clock, recorder, store = clock_at(), Recorder(), SqliteStore(path)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m"))
        await s.wait()
        gone = Owner(store, "a kernel that was killed", clock.now_us())
        with store.transaction() as db:
            db.execute("UPDATE executions SET status = 'running', finished_at = NULL, owner = ?", (gone.id,))
        assert gone._lock is not None
        gone._lock.release()
        await advance(s, clock, 5 * MINUTE)
        assert "5" in recorder.slots
        assert s.executions("task")[0].status == "interrupted"
    store.close()


# 10
async def test_a_script_that_is_stopped_records_no_failure_and_starts_nothing_more(store: SqliteStore):
    recorder = Recorder(held=True)
    with anyio.CancelScope() as script:
        async with running(store, recorder) as s:
            await s.add(every("10ms", overlap="allow"))
            await recorder.begun.wait()
            script.cancel()  # what a loop does at Ctrl-C
            await anyio.sleep_forever()
    started = len(recorder.seen)
    async with running(store) as s:
        statuses = {str(e.status) for e in s.executions("task")}
        assert statuses <= {"interrupted", "missed"}
        assert len(recorder.seen) == started


# 11
async def test_a_runner_that_reports_an_error_has_failed_and_its_answer_is_kept(store: SqliteStore):
    async def failing(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer="as far as I came", error="no more tokens", turns=3)

    async with running(store) as s:
        s.register("agent", failing)
        execution = await s.run_once(agent())
        assert execution.status == "failed"
        assert (execution.answer, execution.error, execution.turns) == ("as far as I came", "no more tokens", 3)


# 12
async def test_a_paused_task_does_not_serve_its_slot(store: SqliteStore):
    recorder = Recorder()
    async with running(store, recorder) as s:
        await s.add(every("1h", first="next"))
        await s.pause("task")
        with pytest.raises(TaskPaused, match="%car resume task"):
            await s.run_once("task")
        with pytest.raises(TaskPaused):
            await s.run_loop("task")
        assert recorder.seen == []
        assert s.executions("task") == []


# 13
@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "a\nb", "a\0b", "", " ", "--once", "täsk", "a/b", "x" * 201]
)
async def test_a_name_cannot_leave_the_store(tmp_path: Path, name: str):
    (tmp_path / "inside").mkdir()
    async with running(str(tmp_path / "inside" / "car.db")) as s:
        with pytest.raises(InvalidInput):
            await s.add(agent(name))
        assert s.tasks() == []
    assert os.listdir(tmp_path) == ["inside"]  # noqa: PTH208 - the whole point is what lies there


# 13
async def test_an_id_cannot_leave_the_store(path: Path):
    async with running(str(path)) as s:
        task = await s.add(Task("chatty", "seq 60000", runner="shell", id="../../evil", namespace="../.."))
        assert task.id.isalnum()
        await s.run_once("chatty")
        outputs = list((path.parent / "car.db.d" / "outputs").iterdir())
        assert len(outputs) == 1
    assert {p.name for p in path.parent.iterdir()} <= {"car.db", "car.db.d", "car.db-wal", "car.db-shm"}


# 14
async def test_admission_never_scans_the_history(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    rows = store.rows

    def noted(sql: str, *bound: Any) -> list[tuple[Any, ...]]:
        asked.append(sql)
        return rows(sql, *bound)

    def traced(cursor: Any, sql: str, bound: Any) -> bool:
        asked.append(sql)
        return True

    store._write.exec_trace = traced
    monkeypatch.setattr(store, "rows", noted)
    async with running(store) as s:
        await s.run_once(every("1h"))
        await s.run_once("task")
        await s.add(every("1h"))
        await s.run_now("task")
        await s.wait()
    store._write.exec_trace = None
    statements = {sql for sql in asked if sql.lstrip().startswith(("SELECT", "UPDATE", "INSERT"))}
    statements.discard(retention._RULES)  # of the hourly maintenance
    assert any("json_each" in sql for sql in statements)
    with store.transaction() as db:
        plans = {sql: [r[3] for r in db.execute(f"EXPLAIN QUERY PLAN {sql}", _bound(sql))] for sql in statements}
    scans = {sql: [step for step in plan if _is_scan(step)] for sql, plan in plans.items()}
    assert {sql: found for sql, found in scans.items() if found} == {}


def _is_scan(step: str) -> bool:
    return step.startswith(("SCAN e", "SCAN x", "SCAN t")) and "INDEX live" not in step  # live rows are few


def _bound(sql: str) -> tuple[str, ...]:
    return ("[]",) * (0 if "EXPLAIN" in sql else sql.count("?"))


# 15
async def test_a_running_record_is_stored_before_the_work_begins(path: Path):
    found: list[tuple[object, ...]] = []
    reader = SqliteStore(path)

    async def look(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        found.extend(reader.rows("SELECT execution_id, status, started_at FROM executions"))
        return "seen"

    async with running(str(path)) as s:
        s.register("agent", look)
        execution = await s.run_once(agent())
        assert [row[:2] for row in found] == [(execution.execution_id, "running")]
        assert found[0][2] is not None
    reader.close()


# 16
async def test_a_timer_that_wakes_early_loses_no_slot(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m"))
        await s.wait()
        for slot in range(1, 6):
            await leap(s, clock, MINUTE - timedelta(microseconds=1))
            s.engine._wake.set()
            await anyio.lowlevel.checkpoint()
            await s.wait()
            assert recorder.slots == [str(k) for k in range(slot)]
            await leap(s, clock, timedelta(microseconds=1))
        assert recorder.slots == ["0", "1", "2", "3", "4", "5"]
        assert all(e.lateness == timedelta(0) for e in s.executions("task"))


# 17
@pytest.mark.parametrize("task", [every("1h"), once(), agent()], ids=["interval", "once", "manual"])
async def test_a_loop_that_was_cancelled_before_it_began_runs_nothing(store: SqliteStore, task: Task):
    recorder = Recorder()
    async with running(store, recorder) as s:
        handle = s.spawn(task)
        handle.cancel()
        await handle
        assert recorder.seen == []
        assert all(e.status != "completed" for e in s.executions())


# 17
@pytest.mark.parametrize("task", [once(), agent()], ids=["once", "manual"])
async def test_once_and_manual_tasks_obey_a_cancel(store: SqliteStore, task: Task):
    recorder = Recorder(held=True)
    async with running(store, recorder) as s:
        handle = s.spawn(task)
        await recorder.begun.wait()
        handle.cancel()
        assert [e.status for e in await handle] == ["cancelled"]
        assert recorder.interrupted == 1


# 18
async def test_a_retried_occurrence_has_an_execution_id_of_its_own(store: SqliteStore):
    recorder = Recorder()
    recorder.error = RuntimeError("boom")
    async with running(store, recorder) as s:
        first = await s.run_once(once())
        recorder.error = None
        second = await s.run_once("task")
        third = await s.run_once("task")
        assert first.occurrence_id == second.occurrence_id
        assert (first.status, second.status) == ("failed", "completed")
        assert second.execution_id == f"{first.execution_id}#2"
        assert (second.cause, third) == ("retry", second)
        assert s.executions("task") == [first, second]


# 19
async def test_an_edit_made_while_nothing_watched_is_not_missed(store: SqliteStore, tmp_path: Path):
    watched, recorder = tmp_path / "data.txt", Recorder()
    watched.write_text("A")
    task = agent(trigger=Trigger.FILE_WATCH, watch_path=str(watched))
    async with running(store) as s:
        await s.add(task)
    watched.write_text("B")
    async with running(store, recorder) as s:
        ear = Ear(s)
        await s.add(task)
        await ear.hears("finished")
        assert len(recorder.seen) == 1


# 20
async def test_what_a_run_cost_is_in_its_history(store: SqliteStore):
    spent: dict[str, Any] = {
        "turns": 3,
        "tool_calls": 2,
        "tokens_in": 1200,
        "tokens_out": 80,
        "cost": 0.25,
        "model": "small",
    }

    async def run(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(answer="done", **spent)

    async with running(store) as s:
        s.register("agent", run)
        await s.run_once(agent())
        (execution,) = s.executions("task")
        assert {name: getattr(execution, name) for name in spent} == spent


# 20
async def test_a_run_that_takes_too_long_is_timed_out(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder) as s:
        execution = await s.run_once(agent(timeout="10ms"))
        assert execution.status == "timed_out"
        assert "10ms" in (execution.error or "")
        assert recorder.interrupted == 1


# 20
async def test_no_more_runs_at_a_time_than_allowed_and_the_others_wait_visibly(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, max_running=2) as s:
        for k in range(4):
            await s.add(every("1h", name=f"t{k}"))
        while len(s.live()) < 4:
            await s.engine.change()
        await recorder.begun.wait()
        waiting = [e for e in s.executions() if e.status == "waiting"]
        assert [e.wait_reason for e in waiting] == ["limit", "limit"]
        recorder.let_go()
        await s.wait()
        assert {e.status for e in s.executions()} == {Status.COMPLETED}
        assert len(recorder.seen) == 4


# 20
async def test_a_task_says_when_it_runs_next(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h"))
        await s.wait()
        assert s.task("task").next_at == now(clock) + HOUR
        assert s.task("task").status == "scheduled"
        await s.pause("task")
        assert s.task("task").status == "disabled"


# 20
async def test_progress_can_be_seen_while_a_run_goes_on(store: SqliteStore):
    begun, go = anyio.Event(), anyio.Event()

    async def run(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        runtime.progress(3, 10, "third page")
        begun.set()
        await go.wait()
        return ""

    async with running(store) as s:
        s.register("agent", run)
        s.spawn(agent())
        await begun.wait()
        (live,) = s.live("task")
        assert live.progress == Progress(3.0, 10.0, "third page")
        go.set()


async def test_a_spawned_loop_that_serves_nothing_new_still_ends(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.define(every("1h"))
        await leap(s, clock, 3 * HOUR)
        served = await s.run_once("task")
        assert served.slot == "3"
        ear = Ear(s)
        handle = s.spawn("task", max_iterations=1)
        await ear.hears("armed")
        while not handle.executions:
            await advance(s, clock, HOUR)
        assert short(await handle) == [("completed", "4", 1)]
        assert recorder.slots == ["3", "4"]
