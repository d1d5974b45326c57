"""A database that is deleted, replaced, moved, truncated or overwritten while it is in use."""

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
import apsw
import pytest

from car_sched_nb.clock import VirtualClock
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import StoreDamaged, StoreError, StoreGone, StoreNotADatabase
from car_sched_nb.model import Trigger
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.faults import be_impatient, stored, until_stored
from tests.unit.world import Ear, Recorder, agent, clock_at, every, running

pytestmark = pytest.mark.anyio

TRIES = 8  # a task's slots that come due while it is gone


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.glob("car.db*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def put_another_store(path: Path) -> None:
    other = SqliteStore(path.with_suffix(".new"))
    other.migrate()
    other.close()
    path.with_suffix(".new").rename(path)


def put_a_text(path: Path) -> None:
    path.with_suffix(".new").write_text("a shopping list\n" * 1000)
    path.with_suffix(".new").rename(path)


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def truncate_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_with_noise(path: Path) -> None:
    noise = random.Random(3).randbytes(path.stat().st_size)
    with path.open("r+b") as file:
        file.write(noise)


def overwrite_with_a_text(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"a shopping list\n" * (path.stat().st_size // 16))


def overwrite_with_another_database(path: Path) -> None:
    other = path.with_suffix(".other")
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE theirs (x)")
    db.executemany("INSERT INTO theirs VALUES (?)", [("x" * 500,) for _ in range(500)])
    db.commit()
    db.close()
    with path.open("r+b") as file:  # in place, as `cp other.db car.db` does
        file.truncate(0)
        file.write(other.read_bytes())


async def ticks(clock: VirtualClock, count: int = TRIES) -> None:
    """Let slots come due, each with a moment for the store to answer."""
    for _ in range(count):
        clock.set(clock.now_us() + 60_000_000)
        await anyio.sleep(0.02)


async def settled(s: Scheduler, clock: VirtualClock) -> None:
    """Have a task with a history that lies in the file, not in its journal."""
    await s.add(every("1m"))
    await s.wait()
    for _ in range(3):
        clock.set(clock.now_us() + 60_000_000)
        await s.wait()
    with s.store._write_lock:
        s.store._write.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def errors(ear: Ear) -> list[str]:
    return [event.text for event in ear.events if event.kind == "error"]


@pytest.mark.parametrize("harm", [delete, delete_all, move_away, put_another_store, put_a_text])
async def test_a_store_that_lost_its_name_starts_nothing_more_and_says_it_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()

    async def life() -> None:
        async with running(str(path), recorder, clock=clock) as s:
            await settled(s, clock)
            ear = Ear(s)
            harm(path)
            before = list(recorder.slots)
            await ticks(clock)
            assert recorder.slots == before
            assert len(errors(ear)) == 1
            assert "was deleted or replaced while it was in use; put it back, or restart the kernel" in errors(ear)[0]
            with pytest.raises(StoreGone):
                await s.run_now("task")
            with pytest.raises(StoreGone):
                await s.add(agent("other"))
            assert recorder.slots == before

    with pytest.raises(StoreGone):  # leaving says so too: what was open could not be ended
        await life()
    if harm is put_a_text:
        with pytest.raises(StoreNotADatabase, match="give another path"):
            await next_life(path)
    else:
        assert await next_life(path) == ["other"]


async def next_life(path: Path) -> list[str]:
    """Go on with what is there; return the names of its tasks."""
    async with running(str(path)) as s:
        await s.add(agent("other"))
        return [task.name for task in s.tasks()]


async def test_a_store_that_was_moved_away_and_back_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    async with running(str(path), recorder, clock=clock) as s:
        await settled(s, clock)
        ear = Ear(s)
        for times in (1, 2):
            move_away(path)
            await ticks(clock, 3)
            assert len(errors(ear)) == times
            path.with_suffix(".away").rename(path)
            clock.set(clock.now_us() + 1_000_000)
            await s.wait()
        slots = [int(slot) for slot in recorder.slots]
        assert len(set(slots)) == len(slots)
        told = s.executions("task")
        assert sum(e.slots for e in told) == max(slots) + 1
        assert s.store.rows("PRAGMA integrity_check") == [("ok",)]


HARMS_IN_PLACE = [
    truncate_to_nothing,
    truncate_to_half,
    overwrite_with_noise,
    overwrite_with_a_text,
    overwrite_with_another_database,
]


@pytest.mark.parametrize("harm", HARMS_IN_PLACE)
async def test_a_store_that_was_overwritten_ends_neither_the_engine_nor_starts_a_slot_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    said: list[str] = []

    async def life() -> None:
        async with running(str(path), recorder, clock=clock) as s:
            await settled(s, clock)
            ear = Ear(s)
            harm(path)
            s.store._write.release_memory()  # pages that it knows by heart would hide the harm for a while
            for reader in s.store._readers:
                reader.release_memory()
            await ticks(clock)
            said.extend(errors(ear))
            assert s.writer._thread.is_alive()
            assert not s._group.cancel_scope.cancel_called  # the engine goes on
            with pytest.raises(StoreDamaged, match="restart the kernel"):
                await use(s)

    with contextlib.suppress(StoreDamaged):  # leaving may say so too
        await life()
    assert len(set(recorder.ids)) == len(recorder.ids)
    assert len(said) <= 2
    assert all("damaged" in text for text in said)
    # The next life says what is wrong, or begins with a store that is empty.
    if harm is truncate_to_nothing:
        assert await next_life(path) == ["other"]
    else:
        with pytest.raises(StoreError, match=r"put a copy back or move the file away|give another path"):
            await next_life(path)


async def use(scheduler: Scheduler) -> None:
    """Write and read what the engine needs."""
    await scheduler.add(agent("other"))
    scheduler.executions("task")


async def test_a_watched_path_and_a_follower_are_looked_at_again_when_the_store_is_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    be_impatient(monkeypatch)
    watched, recorder = tmp_path / "data.txt", Recorder()
    watched.write_text("A")
    async with running(str(path), recorder) as s:
        await s.add(agent("watch", Trigger.FILE_WATCH, watch_path=str(watched)))
        await s.add(agent("after", Trigger.AFTER, after="watch"))
        ear = Ear(s)
        move_away(path)
        watched.write_text("B")
        assert "put it back" in (await ear.hears("error")).text
        await anyio.sleep(0.3)
        assert recorder.seen == []
        path.with_suffix(".away").rename(path)
        await until_stored(s, "after", "completed")
        assert [occurrence.task for occurrence in recorder.seen] == ["watch", "after"]
        assert len(errors(ear)) <= 1


async def test_an_output_file_of_a_folder_that_was_deleted_ends_nobodys_work(path: Path):
    async with running(str(path)) as s:
        shutil.rmtree(path.parent / "car.db.d")
        task = await s.add(agent("chatty"))
        s.register("agent", chatty)
        assert (await s.run_once(task.name)).status == "completed"
    assert [e.status for e in stored(path)] == ["completed"]


async def chatty(spec, prompt, runtime, mailbox) -> str:
    for _ in range(40):
        print("x" * 10_000)
    return "done"
