"""A database that others hold locked: nothing that was promised is lost, and nobody is told twice."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_sched_nb.errors import StoreBusy, StoreError
from car_sched_nb.model import Task
from car_sched_nb.store import records, schema
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.faults import ROOT, be_impatient, locked, until_stored
from tests.unit.world import (
    HANG_S,
    MINUTE,
    Ear,
    Recorder,
    advance,
    agent,
    clock_at,
    come_true,
    every,
    leap,
    running,
    short,
)

pytestmark = pytest.mark.anyio

PROCESSES = 8


async def test_a_lock_of_a_second_is_waited_out(path: Path):
    async with running(str(path)) as s, anyio.create_task_group() as group:
        with locked(path):
            group.start_soon(s.add, agent())
            await anyio.sleep(1)
            assert s.tasks() == []  # reading, and the loop, go on meanwhile
        await come_true(s.tasks)


async def test_what_ends_while_the_database_is_locked_is_stored_later(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    recorder = Recorder(held=True)
    async with running(str(path), recorder) as s:
        ear = Ear(s)
        await s.add(agent())
        started = await s.run_now("task")
        await recorder.begun.wait()
        with locked(path):
            recorder.let_go()
            told = await ear.hears("error")
            assert "could not be stored" in told.text
            assert "locked by another program; end what holds it" in told.text
            await anyio.sleep(0.5)  # several more tries
            assert s.live("task")  # until it is stored it is in progress for everybody
        ended = await until_stored(s, "task", "completed")
        assert ended.execution_id == started.execution_id
        assert [event.text for event in ear.events if event.kind == "error"] == []  # it was said once


async def test_slots_that_came_due_under_a_lock_follow_the_tasks_catch_up(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    async with running(str(path), recorder, clock=clock) as s:
        for catchup in ("latest", "none", "all"):
            await s.add(every("1m", catchup, catchup=catchup))
        await s.wait()
        ear = Ear(s)
        with locked(path):
            clock.set(clock.now_us() + 60_000_000)
            for _ in range(3):
                await ear.hears("error")
            for _ in range(30):  # a minute and a half of asking again
                clock.set(clock.now_us() + 3_000_000)
                await anyio.sleep(0.005)
            while s.engine.settling:  # noqa: ASYNC110 - one that waits for the lock was decided by an earlier clock
                await anyio.sleep(0.005)
            assert len(recorder.seen) == 3  # the first slots, nothing without a row
        clock.set(clock.now_us() + 3_000_000)  # it is asked again
        await advance(s, clock, MINUTE)
        assert len([event for event in ear.events if event.kind == "error"]) == 0
        assert short(s.executions("latest")) == [
            ("completed", "0", 1),
            ("missed", "1", 1),
            ("completed", "2", 1),
            ("completed", "3", 1),
        ]
        assert short(s.executions("none")) == [("completed", "0", 1), ("missed", "1", 2), ("completed", "3", 1)]
        assert short(s.executions("all")) == [("completed", str(slot), 1) for slot in range(4)]
        assert len(set(recorder.ids)) == len(recorder.ids)


async def test_whoever_asks_for_something_under_a_lock_is_told_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    async with running(str(path)) as s:
        await s.add(agent())
        with locked(path):
            for ask in (
                lambda: s.add(agent("other")),
                lambda: s.run_now("task"),
                lambda: s.run_once("task"),
                lambda: s.pause("task"),
                lambda: s.cancel("task"),
                lambda: s.delete("task"),
                s.maintain,
            ):
                with pytest.raises(StoreBusy, match="locked by another program; end what holds it, then try again"):
                    await ask()
        assert [task.name for task in s.tasks()] == ["task"]
        assert s.executions() == []
        await s.run_now("task")
        await s.wait()
        assert short(s.executions("task"))[0][0] == "completed"


async def test_a_loop_that_is_cancelled_under_a_lock_stops_what_runs(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    recorder = Recorder(held=True)
    async with running(str(path), recorder) as s:
        handle = s.spawn(every("1h"))
        await recorder.begun.wait()
        with locked(path):
            handle.cancel()
            while not recorder.interrupted:  # noqa: ASYNC110 - the body is told, nobody else
                await anyio.sleep(0.01)
        assert (await until_stored(s, "task", "cancelled")).slot == "0"
        with pytest.raises(StoreBusy):
            await handle


async def test_a_task_that_could_not_be_deleted_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    async with running(str(path), recorder, clock=clock) as s:
        await s.add(every("1m"))
        await s.wait()
        with locked(path), pytest.raises(StoreBusy):
            await s.delete("task")
        await advance(s, clock, MINUTE)
        assert recorder.slots == ["0", "1"]


async def test_a_start_that_waits_under_a_lock_begins_once_and_after_its_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    recorder.error = ValueError("no")
    async with running(str(path), recorder, clock=clock) as s:
        await s.add(every("1h", retries=1, retry_delay="1m"))
        await until_stored(s, "task", "failed")
        recorder.error = None
        ear = Ear(s)
        with locked(path):
            clock.set(clock.now_us() + 180_000_000)
            assert "did not take the start" in (await ear.hears("error")).text
            assert len(recorder.seen) == 1
        await leap(s, clock, MINUTE)
        assert [(e.status, e.attempt) for e in s.executions("task")] == [("failed", 1), ("completed", 2)]
        assert len(recorder.seen) == 2


async def test_entering_a_locked_store_says_so_and_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    SqliteStore(path).close()
    with locked(path), pytest.raises(StoreBusy):
        async with running(str(path)):
            raise AssertionError("entered")
    async with running(str(path)) as s:
        assert [row[0] for row in s.store.rows("SELECT id FROM owners")] == [s.owner]


async def test_leaving_a_locked_store_says_so_and_leaves_its_lock(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    recorder = Recorder(held=True)

    async def leave_locked() -> None:
        async with running(str(path), recorder) as s:
            s.spawn(agent())
            await recorder.begun.wait()
            holding.append(locked(path))
            holding[0].__enter__()

    holding: list[Any] = []
    try:
        with pytest.raises(StoreBusy):
            await leave_locked()
    finally:
        holding[0].__exit__(None, None, None)
    async with running(str(path)) as s:
        assert len(s.interrupted) == 1
        assert short(s.executions("task"))[0][0] == "interrupted"


def test_eight_processes_make_and_open_one_new_store_at_the_same_moment(path: Path):
    script = """
import sys, time
from car_sched_nb.model import Task
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
sys.stdin.read(1)
store = SqliteStore(sys.argv[1])
store.migrate()
with store.transaction() as db:
    records.define(db, Task("t" + sys.argv[2], "1"), "default", 1_800_000_000_000_000, None)
print(len(records.tasks(store)) > 0)
store.close()
"""
    command = [sys.executable, "-c", script, str(path)]
    started = [
        subprocess.Popen(
            [*command, str(k)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(PROCESSES)
    ]
    for process in started:  # each has imported, or does so now; then they race
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=HANG_S) for process in started]
    assert said == [("True\n", "")] * PROCESSES
    store = SqliteStore(path)
    assert store.rows("PRAGMA user_version") == [(schema.VERSION,)]
    assert sorted(task.name for task in records.tasks(store)) == [f"t{k}" for k in range(PROCESSES)]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_threads_that_open_a_new_store_at_the_same_moment_all_succeed(tmp_path: Path):
    async def race(path: Path) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(PROCESSES):
                group.start_soon(anyio.to_thread.run_sync, open_and_close, path)

    def open_and_close(path: Path) -> None:
        store = SqliteStore(path)
        store.migrate()
        store.close()

    for k in range(10):
        anyio.run(race, tmp_path / f"{k}.db")


def test_one_statement_that_cannot_be_written_takes_no_other_along(store: SqliteStore):
    with store.transaction() as db:
        records.define(db, Task("a", "1"), "default", 1, None)
    with pytest.raises(Exception, match="no such column") as raised, store.transaction() as db:
        db.execute("UPDATE tasks SET nonsense = 1")
    assert not isinstance(raised.value, StoreError)  # a mistake in a statement says nothing of the file
    assert [task.name for task in records.tasks(store)] == ["a"]
