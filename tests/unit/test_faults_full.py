"""A disk without room and a store that may not be written: nothing half-written, and on as soon as it is possible."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import StoreFull, StoreReadOnly
from car_sched_nb.model import Task
from car_sched_nb.output import HEAD, TAIL, Output
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.faults import be_impatient, run_script, until_stored
from tests.unit.world import MINUTE, Ear, Recorder, advance, agent, clock_at, every, running, short

FULL = "no room to write into the store .*free some space on its disk"


def let_grow(store: SqliteStore, pages: int) -> None:
    """Let the database have so many pages more than it has."""
    with store._write_lock:
        store._write.pragma("max_page_count", store._write.pragma("page_count") + pages)


async def fill(scheduler: Scheduler, size: int) -> None:
    """Add tasks until there is no room."""
    for k in range(1000):
        await scheduler.add(agent(f"t{k}", prompt="x" * size))


def fill_disk(folder: Path) -> Path:
    """Leave no byte of room on a disk; return the file that takes it."""
    with (folder / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 512):
            pass
    return folder / "fill"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte of its own, where this may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.anyio
async def test_on_a_full_disk_nothing_is_half_written_and_the_engine_goes_on_when_there_is_room(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1m", prompt="x" * 100))
        await s.wait()
        let_grow(store, 0)
        ear = Ear(s)
        with pytest.raises(StoreFull, match=FULL):
            await fill(s, 2000)
        known = [task.name for task in s.tasks()]
        recorder.hold()
        for _ in range(200):
            clock.set(clock.now_us() + 60_000_000)
            await anyio.sleep(0.002)
            recorder.let_go()
            if any(event.kind == "error" for event in ear.events):
                break
        assert "no room" in (await ear.hears("error")).text
        assert [task.name for task in s.tasks()] == known
        let_grow(store, 10_000)
        clock.set(clock.now_us() + 1_000_000)  # when it asks again
        await advance(s, clock, 2 * MINUTE)
        executions = s.executions("task")
        assert {str(e.status) for e in executions} <= {"completed", "missed", "skipped"}
        assert len(set(recorder.ids)) == len(recorder.ids)
        assert {e.execution_id for e in executions} >= set(recorder.ids)
        assert sum(e.slots for e in executions) == int(executions[-1].slot) + 1  # none without a row
        assert store.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.anyio
async def test_a_disk_that_is_really_full_says_so_and_is_used_again_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    be_impatient(monkeypatch)
    recorder = Recorder(held=True)
    async with running(str(small_disk / "car.db"), recorder) as s:
        ear = Ear(s)
        await s.add(agent())
        await s.run_now("task")
        await recorder.begun.wait()
        filled = fill_disk(small_disk)
        with pytest.raises(StoreFull, match=FULL):
            await fill(s, 4000)
        s.running.of(s.task("task").id)[0].output.write("y" * 60_000)
        recorder.let_go()
        assert "no room" in (await ear.hears("error")).text
        filled.unlink()
        await until_stored(s, "task", "completed")
        assert s.store.rows("PRAGMA integrity_check") == [("ok",)]


def test_a_new_store_on_a_full_disk_is_refused_with_what_to_do(small_disk: Path):
    filled = fill_disk(small_disk)
    with pytest.raises(StoreFull, match=FULL):
        anyio.run(open_and_leave, small_disk / "car.db")
    filled.unlink()
    anyio.run(open_and_leave, small_disk / "car.db")


async def open_and_leave(path: Path) -> None:
    async with running(str(path)) as s:
        await s.add(agent())


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(path: Path):
    done = run_script(
        """
import resource, signal, sys
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import StoreFull
from car_sched_nb.model import Task
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(sys.argv[1])
store.migrate()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
written = 0
def add(k):
    with store.transaction() as db:
        records.define(db, Task(f"t{k}", "x" * 5000), "default", 1, None)
try:
    for written in range(100):
        add(written)
except StoreFull as error:
    print(error)
assert len(records.tasks(store)) == written
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
add("later")
assert len(records.tasks(store)) == written + 1
assert store.rows("PRAGMA integrity_check") == [("ok",)]
""",
        str(path),
    )
    assert done.stderr == ""
    assert "no room to write into the store" in done.stdout


def test_output_that_has_no_room_keeps_its_first_and_last_part_and_ends_nobodys_work(small_disk: Path):
    output = Output(str(small_disk / "outputs" / "full.txt"))
    for k in range(40):
        output.write(f"{k:06}" * 10_000)
    text = output.text()
    output.close()
    assert text.startswith("000000")
    assert text.endswith("000039")
    assert len(text) < HEAD + TAIL + 100
    assert output.path is None


READ_ONLY = """
import os, sys, anyio, anyio._backends._asyncio, concurrent.futures.thread
from pathlib import Path
import car_sched_nb as car
car.Scheduler, car.Task
if os.geteuid() == 0:  # which may write everywhere
    os.setgid(65534)
    os.setuid(65534)
folder, what = Path(sys.argv[1]), sys.argv[2]
path = folder / "car.db"

async def main():
    async with car.Scheduler(path) as s:
        await s.add(car.Task("a", "1"))
        path.chmod(0o400)
        for journal in folder.glob("car.db-*"):
            journal.chmod(0o400)
        folder.chmod(0o500)
        await s.add(car.Task("b", "1"))  # what is open stays open
        assert len(s.tasks()) == 2
        folder.chmod(0o700)
        for file in folder.glob("car.db*"):
            file.chmod(0o700 if file.is_dir() else 0o600)
anyio.run(main)
if what == "file":
    path.chmod(0o400)
else:
    folder.chmod(0o500)
try:
    async def enter():
        async with car.Scheduler(path) as s:
            print("entered", len(s.tasks()))
    anyio.run(enter)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_becomes_read_only_goes_on_and_is_refused_when_it_is_opened_again(what: str):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        folder.mkdir()
        if os.geteuid() == 0:
            Path(name).chmod(0o755)
            os.chown(folder, 65534, 65534)
        done = run_script(READ_ONLY, str(folder), what)
        folder.chmod(0o700)
    assert done.stderr == ""
    assert done.stdout.startswith("StoreReadOnly")
    assert "cannot be written" in done.stdout
    assert "change its permissions or give store=PATH" in done.stdout


@pytest.mark.anyio
async def test_a_store_that_cannot_be_written_any_more_starts_nothing_and_says_it_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    be_impatient(monkeypatch)
    clock, recorder = clock_at(), Recorder()
    async with running(str(path), recorder, clock=clock) as s:
        await s.add(every("1m"))
        await s.wait()
        ear = Ear(s)
        s.store._write.pragma("query_only", True)  # what SQLite does when the system takes the right away
        for _ in range(5):
            clock.set(clock.now_us() + 60_000_000)
            await anyio.sleep(0.02)
        assert "cannot be written" in (await ear.hears("error")).text
        assert [event.kind for event in ear.events if event.kind == "error"] == []
        with pytest.raises(StoreReadOnly, match="change its permissions"):
            await s.run_now("task")
        assert recorder.slots == ["0"]
        s.store._write.pragma("query_only", False)
        clock.set(clock.now_us() + 1_000_000)
        await advance(s, clock, MINUTE)
        assert short(s.executions("task"))[-1][0] == "completed"


def test_a_store_in_memory_has_no_disk_to_fill():
    store = SqliteStore()
    store.migrate()
    with store.transaction() as db:
        records.define(db, Task("a", "1"), "default", 1, None)
    assert len(records.tasks(store)) == 1
    store.close()
