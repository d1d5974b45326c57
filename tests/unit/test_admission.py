"""The one transaction that settles slots: whoever moves the cursor runs, everybody else does nothing."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from car_sched_nb.model import Status, Task, Trigger, from_us
from car_sched_nb.occurrence import execution_id, occurrence_id
from car_sched_nb.store import records, sqlite
from car_sched_nb.store.ops import NOT_WRITTEN, Call, End, Finish, Finished, Row, Settle, Settled, Start
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import HANG_S, Recorder, clock_at, every, running

NOW = 1_800_000_000_000_000
OWNER = "me"
LOST, WON = Settled(won=False, claimed=False), Settled(won=True, claimed=True)


@pytest.fixture
def task(store: SqliteStore) -> Task:
    """An interval task whose slot 0 has not been settled."""
    with store.transaction() as db:
        task = Task("task", "", Trigger.INTERVAL, "1m", runner="agent")
        return records.define(db, task, "default", NOW, None).task


def row(task: Task, slot: int, attempt: int = 1, **changes: Any) -> Row:
    occurrence = occurrence_id(task.id, task.trigger, str(slot))
    fields = {
        "execution_id": execution_id(occurrence, attempt),
        "occurrence_id": occurrence,
        "task_id": task.id,
        "trigger": task.trigger,
        "slot": str(slot),
        "attempt": attempt,
        "status": "running",
        "wait_reason": None,
        "scheduled_at": NOW,
        "started_at": NOW,
        "finished_at": None,
        "slots": 1,
        "cause": "slot",
        "reason": None,
        "version": task.version,
        "params": None,
        "runner": "agent",
        "executor": "loop",
        "owner": OWNER,
    }
    return Row(**{**fields, **changes})


def settle(task: Task, slot: int, **changes: Any) -> Settle:
    """Return what claims a slot of a task, from the slot before it."""
    fields = {
        "task_id": task.id,
        "revision": task.revision,
        "version": task.version,
        "now": NOW,
        "expected": str(slot - 1),
        "cursor": str(slot),
        "next_at": NOW + 1,
        "claim": row(task, slot),
    }
    return Settle(**{**fields, **changes})


def finish(execution: str, status: str = "completed", owner: str = OWNER) -> Finish:
    end = End(execution_id=execution, owner=owner, status=status, started_at=NOW, finished_at=NOW + 5, duration=5)
    return Finish(end=end)


def start(task: Task, execution: str, owner: str, at_us: int) -> Start:
    return Start(execution, owner, at_us, task.version, "loop", True, task.id)


def written(store: SqliteStore) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    return store.rows("SELECT * FROM tasks"), store.rows("SELECT * FROM executions")


def test_whoever_moves_the_cursor_may_start(store: SqliteStore, task: Task):
    assert store.apply([settle(task, 0)]) == [WON]
    after = records.get(store, "default", "task")
    assert (after.cursor, after.run_count, after.last_run_at) == ("0", 1, from_us(NOW))
    assert after.next_at == from_us(NOW + 1)
    assert [e.status for e in records.executions(store)] == ["running"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"expected": "7"},
        {"expected": ""},
        {"revision": 1},
        {"revision": -1},
        {"version": 1},
        {"task_id": "somebody"},
    ],
    ids=str,
)
def test_the_loser_does_nothing(store: SqliteStore, task: Task, wrong: dict[str, Any]):
    before = written(store)
    gap = row(task, 0, 0, status="missed", slots=3)
    assert store.apply([settle(task, 0, gap=gap, **wrong)]) == [LOST]
    assert written(store) == before


def test_a_cursor_that_was_moved_by_another_is_lost(store: SqliteStore, task: Task):
    assert store.apply([settle(task, 0)]) == [WON]
    store.apply([finish(row(task, 0).execution_id)])
    before = written(store)
    assert store.apply([settle(task, 0)]) == [LOST]
    assert written(store) == before


def test_a_paused_task_starts_by_hand_only(store: SqliteStore, task: Task):
    with store.transaction() as db:
        assert records.set_enabled(db, task.id, False)
    before = written(store)
    assert store.apply([settle(task, 0)]) == [LOST]
    assert written(store) == before
    assert store.apply([settle(task, 0, by_hand=True)]) == [WON]


def test_a_deleted_task_starts_nothing(store: SqliteStore, task: Task):
    with store.transaction() as db:
        records.delete(db, task.id, NOW)
    before = written(store)
    assert store.apply([settle(task, 0, by_hand=True)]) == [LOST]
    assert written(store) == before


@pytest.mark.parametrize("status", ["waiting", "running"])
def test_nothing_starts_while_an_occurrence_is_in_progress(store: SqliteStore, task: Task, status: str):
    assert store.apply([settle(task, 0, claim=row(task, 0, status=status))]) == [WON]
    before = written(store)
    assert store.apply([settle(task, 1)]) == [LOST]
    assert written(store) == before
    assert store.apply([settle(task, 1, free=False)]) == [WON]  # overlap is allowed


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out", "interrupted"])
def test_what_has_ended_is_not_in_progress(store: SqliteStore, task: Task, status: str):
    store.apply([settle(task, 0)])
    assert store.apply([finish(row(task, 0).execution_id, status)]) == [Finished(written=True)]
    assert store.apply([settle(task, 1)]) == [WON]


@pytest.mark.parametrize("status", ["running", "waiting", "completed"])
def test_the_index_guards_an_occurrence_whatever_the_cursor_says(store: SqliteStore, task: Task, status: str):
    store.apply([settle(task, 0)])
    if status != "running":
        store.apply([Call(lambda db: db.execute("UPDATE executions SET status = ?", (status,)).fetchall())])
    with store.transaction() as db:
        db.execute("UPDATE tasks SET cursor = '-1'")
    again = settle(task, 0, claim=row(task, 0, attempt=2), free=False)
    assert store.apply([again]) == [Settled(won=True, claimed=False)]
    assert len(records.executions(store)) == 1
    assert records.get(store, "default", "task").run_count == 1


def test_a_failed_occurrence_may_have_a_next_attempt_but_only_one(store: SqliteStore, task: Task):
    store.apply([settle(task, 0)])
    store.apply([finish(row(task, 0).execution_id, "failed")])
    retry = settle(task, 0, expected=None, cursor=None, claim=row(task, 0, attempt=2), free=False)
    assert store.apply([retry]) == [WON]
    assert store.apply([retry]) == [Settled(won=True, claimed=False)]
    assert [e.attempt for e in records.executions(store)] == [1, 2]
    assert records.get(store, "default", "task").cursor == "0"


def test_a_gap_that_goes_on_is_one_row(store: SqliteStore, task: Task):
    gap = row(task, 0, 0, status="missed", slots=3, started_at=None, finished_at=NOW, reason="no_owner")
    assert store.apply([settle(task, 0, claim=None, gap=gap, cursor="2")]) == [Settled(won=True, claimed=False)]
    for cursor in (4, 6):
        more = settle(
            task,
            0,
            claim=None,
            expected=str(cursor - 2),
            cursor=str(cursor),
            extend=(gap.execution_id, 2, NOW + cursor),
        )
        assert store.apply([more])[0].won
    (missed,) = records.executions(store)
    assert (missed.status, missed.slot, missed.slots, missed.reason) == ("missed", "0", 7, "no_owner")
    assert missed.finished_at == from_us(NOW + 6)


def test_a_gap_is_not_extended_by_the_loser(store: SqliteStore, task: Task):
    gap = row(task, 0, 0, status="missed", slots=3, started_at=None)
    store.apply([settle(task, 0, claim=None, gap=gap, cursor="2")])
    before = written(store)
    assert store.apply([settle(task, 0, claim=None, cursor="9", extend=(gap.execution_id, 2, NOW))]) == [LOST]
    assert written(store) == before


def test_claim_and_gap_are_written_together_or_not_at_all(store: SqliteStore, task: Task):
    broken = msgspec.structs.replace(row(task, 3), runner=None)  # NOT NULL
    gap = row(task, 0, 0, status="missed", slots=3)
    before = written(store)
    store.apply([settle(task, 0, cursor="3", claim=broken, gap=gap)])
    tasks, executions = written(store)
    assert (tasks, executions) == before or len(executions) == 1  # an ignored claim never starts
    assert [e for e in records.executions(store) if e.status == "running"] == []


def test_a_batch_settles_many_tasks_each_for_itself(store: SqliteStore):
    with store.transaction() as db:
        tasks = [
            records.define(db, Task(f"t{k}", "", Trigger.INTERVAL, "1m", runner="agent"), "default", NOW, None).task
            for k in range(50)
        ]
    answers = store.apply([settle(task, 0, expected="9" if k % 5 == 0 else "-1") for k, task in enumerate(tasks)])
    assert answers == [LOST if k % 5 == 0 else WON for k in range(50)]
    assert len(records.executions(store)) == 40


def test_a_waiting_execution_begins_once_and_only_for_its_owner(store: SqliteStore, task: Task):
    store.apply([settle(task, 0, claim=row(task, 0, status="waiting", started_at=None))])
    execution = row(task, 0).execution_id
    assert store.apply([start(task, execution, "another", NOW + 1)]) == [False]
    assert store.apply([start(task, execution, OWNER, NOW + 2)]) == [True]
    assert store.apply([start(task, execution, OWNER, NOW + 3)]) == [False]
    assert records.executions(store)[0].started_at == from_us(NOW + 2)


def test_an_execution_ends_once_and_only_for_its_owner(store: SqliteStore, task: Task):
    store.apply([settle(task, 0)])
    execution = row(task, 0).execution_id
    assert store.apply([finish(execution, owner="another")]) == [NOT_WRITTEN]
    assert store.apply([finish(execution, "failed")]) == [Finished(written=True)]
    assert store.apply([finish(execution, "completed")]) == [NOT_WRITTEN]
    assert records.executions(store)[0].status == "failed"


def test_a_call_that_fails_takes_back_only_its_own_writes(store: SqliteStore, task: Task):
    def broken(db: Any) -> None:
        db.execute("UPDATE tasks SET name = 'broken'")
        raise ValueError("no")

    settled, failed, fine = store.apply([settle(task, 0), Call(broken), Call(lambda db: 42)])
    assert (settled, fine) == (WON, 42)
    assert isinstance(failed, ValueError)
    assert records.get(store, "default", "task").cursor == "0"


def test_two_stores_on_one_file_give_a_slot_to_one(path: Path):
    stores = [SqliteStore(path) for _ in range(4)]
    stores[0].migrate()
    with stores[0].transaction() as db:
        task = records.define(db, Task("task", "", Trigger.INTERVAL, "1m", runner="agent"), "default", NOW, None).task
    won: list[tuple[int, int]] = []
    together = threading.Barrier(len(stores))

    def race(number: int, store: SqliteStore) -> None:
        for slot in range(50):
            together.wait(HANG_S)
            if store.apply([settle(task, slot, free=False)])[0].claimed:
                won.append((slot, number))

    threads = [threading.Thread(target=race, args=pair) for pair in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slot for slot, _ in won) == list(range(50))
    for store in stores:
        store.close()


async def two_schedulers_on(path: Path, slots: int) -> tuple[Counter[str], Counter[str]]:
    """Return how often each slot began, as the bodies saw it, and how many rows it has."""
    clocks, recorder = (clock_at(), clock_at()), Recorder()
    async with (
        running(str(path), recorder, clock=clocks[0]) as one,
        running(str(path), recorder, clock=clocks[1]) as two,
    ):
        for k in range(4):
            await one.define(every("1m", name=f"t{k}", overlap="allow"))
            for scheduler in (one, two):
                await scheduler.arm(f"t{k}")
        for _ in range(slots):
            await one.wait()
            await two.wait()
            for clock in clocks:
                clock.set(clock.now_us() + 60_000_000)
        await one.wait()
        await two.wait()
        rows = Counter(f"{e.task} {e.slot}" for e in one.executions() if e.status == Status.COMPLETED)
    return Counter(f"{o.task} {o.slot}" for o in recorder.seen), rows


EACH_ONCE = Counter(f"t{k} {slot}" for k in range(4) for slot in range(26))


@pytest.mark.anyio
async def test_two_schedulers_on_one_file_start_each_slot_once(path: Path):
    began, rows = await two_schedulers_on(path, 25)
    assert began == rows == EACH_ONCE


@pytest.mark.anyio
async def test_control_without_its_guards_the_race_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch):
    unguarded = sqlite._SETTLE.replace("(j.expected IS NULL OR tasks.cursor = j.expected)", "1")
    assert unguarded != sqlite._SETTLE
    monkeypatch.setattr(sqlite, "_SETTLE", unguarded)
    # Without the index and the unique id, whoever settles also starts.
    monkeypatch.setattr(sqlite, "_insert", lambda db, rows: {row.execution_id for row in rows})
    began, _ = await two_schedulers_on(path, 25)
    assert began != EACH_ONCE
    assert max(began.values()) > 1


@pytest.mark.anyio
async def test_control_without_the_cursor_the_index_still_guards(path: Path, monkeypatch: pytest.MonkeyPatch):
    unguarded = sqlite._SETTLE.replace("(j.expected IS NULL OR tasks.cursor = j.expected)", "1")
    monkeypatch.setattr(sqlite, "_SETTLE", unguarded)
    began, _ = await two_schedulers_on(path, 25)
    assert began == EACH_ONCE


@pytest.mark.anyio
async def test_runs_asked_for_at_the_same_moment_in_two_schedulers_do_not_overlap(path: Path):
    recorder = Recorder(held=True)
    async with running(str(path), recorder) as one, running(str(path), recorder) as two:
        await one.define(every("1h", first="next"))
        async with anyio.create_task_group() as group:
            for scheduler in (one, two) * 5:
                group.start_soon(scheduler.run_now, "task")
        assert Counter(e.status for e in one.executions("task")) == {Status.RUNNING: 1, Status.SKIPPED: 9}
        await recorder.begun.wait()
        assert len(recorder.seen) == 1
        recorder.let_go()
