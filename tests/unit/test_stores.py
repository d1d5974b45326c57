"""Where tasks are kept: private, durable, refused when it cannot be trusted; and who is alive."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from car_sched_nb.errors import StoreNotADatabase, StoreOnNetwork, StoreReadOnly, StoreTooNew
from car_sched_nb.model import Task, Trigger
from car_sched_nb.store import records, schema
from car_sched_nb.store.owners import Owner, alive, reconcile
from car_sched_nb.store.sqlite import SqliteStore, refuse_network
from tests.unit.world import Recorder, every, running

NOW = 1_800_000_000_000_000


def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    store.migrate()
    return store


def test_a_store_is_its_users_alone(tmp_path: Path):
    mask = os.umask(0)
    store = opened(tmp_path / "deep" / "er" / "car.db")
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "deep" / "er").stat().st_mode) == 0o700
    for file in (tmp_path / "deep" / "er").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    store.close()


def test_a_claim_survives_a_power_cut(path: Path):
    store = opened(path)
    assert store._write.pragma("journal_mode") == "wal"
    assert store._write.pragma("synchronous") == 2  # FULL
    store.close()


def test_a_store_is_migrated_once_and_marked_as_ours(path: Path):
    for _ in range(2):
        store = opened(path)
        assert store.rows("PRAGMA user_version") == [(schema.VERSION,)]
        assert store.rows("PRAGMA application_id") == [(schema.APPLICATION_ID,)]
        store.close()


@pytest.mark.parametrize("content", [b"hello, this is no database, but it is long enough" * 50, b"SQLite"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(StoreNotADatabase, match=r"car\.db.*another path"):
        opened(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(StoreNotADatabase, match="a folder"):
        opened(tmp_path)


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreNotADatabase, match="another program"):
        opened(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    db.close()
    assert len(path.read_bytes()) == len(before)


def test_a_store_newer_than_the_code_is_refused_with_both_versions(path: Path):
    store = opened(path)
    with store.transaction() as db:
        db.pragma("user_version", 999)
    store.close()
    with pytest.raises(StoreTooNew, match=rf"999.*{schema.VERSION}"):
        opened(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_cannot_be_written_is_refused(path: Path, what: str):
    opened(path).close()
    target = path if what == "file" else path.parent
    mode = target.stat().st_mode
    target.chmod(0o500 if what == "folder" else 0o400)
    try:
        with pytest.raises(StoreReadOnly, match="cannot be written"):
            opened(path)
    finally:
        target.chmod(mode)


def test_a_store_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreReadOnly):
        opened(tmp_path / "file" / "car.db")


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ana/local ext4 rw 0 0
//nas/share /mnt/my\\040share cifs rw 0 0
auto /data autofs rw 0 0
server:/data /data nfs rw 0 0
ana@host: /mnt/ssh fuse.sshfs rw 0 0
odd
"""


@pytest.mark.parametrize(
    ("folder", "refused"),
    [
        ("/var/lib", False),
        ("/home/ana", True),
        ("/home", True),
        ("/home2", False),
        ("/home/ana/local/data", False),
        ("/mnt/my share/x", True),
        ("/data/x", True),
        ("/mnt/ssh", True),
    ],
)
def test_a_network_file_system_is_refused_where_locks_do_not_hold(tmp_path: Path, folder: str, refused: bool):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.replace("odd\n", ""))
    if refused:
        with pytest.raises(StoreOnNetwork, match="local store"):
            refuse_network(Path(folder), str(mounts))
    else:
        refuse_network(Path(folder), str(mounts))


def test_where_nobody_tells_of_mounts_nothing_is_refused(tmp_path: Path):
    refuse_network(Path("/home"), str(tmp_path / "none"))


def test_a_transaction_is_all_or_nothing(store: SqliteStore):
    def broken() -> None:
        with store.transaction() as db:
            records.define(db, Task("a", "1"), "default", NOW, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert records.tasks(store) == []
    with store.transaction() as db:
        records.define(db, Task("a", "1"), "default", NOW, None)
    assert [t.name for t in records.tasks(store)] == ["a"]


def test_reading_changes_nothing(path: Path):
    store = opened(path)
    with pytest.raises(StoreReadOnly):
        store.rows("DELETE FROM tasks")
    store.close()


def test_a_store_is_read_from_many_threads(store: SqliteStore):
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(200):
                assert store.rows("SELECT count(*) FROM tasks") == [(0,)]
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_an_owner_lives_as_long_as_its_lock(path: Path):
    store = opened(path)
    owner = Owner(store, "ana@laptop prices.ipynb", NOW)
    assert alive(store, owner.id)
    assert reconcile(store, NOW) == []
    owner.leave(NOW)
    assert not alive(store, owner.id)
    assert store.rows("SELECT id, name, ended_at FROM owners") == [(owner.id, "ana@laptop prices.ipynb", NOW)]
    store.close()


def test_what_an_owner_that_is_gone_left_running_is_interrupted(path: Path):
    store = opened(path)
    gone, here = Owner(store, "gone", NOW), Owner(store, "here", NOW)
    with store.transaction() as db:
        task = records.define(db, Task("a", "", Trigger.INTERVAL, "1m"), "default", NOW, None).task
        for owner, status in ((gone, "running"), (gone, "waiting"), (gone, "completed"), (here, "running")):
            db.execute(
                """INSERT INTO executions (execution_id, occurrence_id, task_id, trigger, slot, attempt, status,
                    scheduled_at, slots, cause, version, runner, executor, owner)
                VALUES (?1, ?1, ?2, 'interval', '0', 1, ?3, ?4, 1, 'slot', 0, 'python', 'thread', ?5)""",
                (f"{owner.name}-{status}", task.id, status, NOW, owner.id),
            )
    assert reconcile(store, NOW + 1) == []
    assert gone._lock is not None
    gone._lock.release()  # as the system does when a process is gone
    assert reconcile(store, NOW + 2) == ["gone-running"]
    assert [e.execution_id for e in records.unowned(store, "default")] == ["gone-waiting"]
    assert reconcile(store, NOW + 3) == []
    states = {e.execution_id: str(e.status) for e in records.executions(store)}
    assert states == {
        "gone-running": "interrupted",
        "gone-waiting": "waiting",
        "gone-completed": "completed",
        "here-running": "running",
    }
    assert "went away" in (records.executions(store)[0].error or "")
    here.leave(NOW)
    store.close()


@pytest.mark.anyio
async def test_a_scheduler_that_is_left_interrupts_what_runs_and_is_not_alive(path: Path):
    recorder = Recorder(held=True)
    async with running(str(path), recorder) as s:
        await s.add(every("1h"))
        await recorder.begun.wait()
        owner = s.owner
    store = opened(path)
    assert [str(e.status) for e in records.executions(store)] == ["interrupted"]
    assert not alive(store, owner)
    assert store.rows("SELECT * FROM armed") == []
    assert list((path.parent / "car.db.d").glob("*.lock")) == []
    store.close()


@pytest.mark.anyio
async def test_what_is_armed_is_known_and_void_when_its_owner_is_gone(path: Path):
    async with running(str(path)) as s:
        task = await s.add(every("1h", first="next"))
        assert s.store.rows("SELECT owner, task_id FROM armed") == [(s.owner, task.id)]
        await s.disarm("task")
        assert s.store.rows("SELECT owner, task_id FROM armed") == []
