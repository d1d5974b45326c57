"""Who is alive: each owner holds an OS lock on a file beside the database for as long as it lives.

A lock has no false positives: the system frees it when the process is gone, and never before.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock, Timeout

from car_sched_nb.processes import end_children
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

_LONG_ENOUGH_S = 60.0  # for an owner that has its lock to become known


def whoami(where: str) -> str:
    """Return a readable name for an owner: `ana@laptop prices.ipynb`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user that no file names
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} {where}"


class Owner:
    """One life of one scheduler, with an id that is never used again.

    Parameters
    ----------
    store
        Where it will claim; in memory nobody else can see it, and it needs no lock.
    name
        A readable name: `ana@laptop prices.ipynb`.
    """

    def __init__(self, store: SqliteStore, name: str, now_us: int) -> None:
        self.id = secrets.token_hex(8)
        self.name = name
        self._store = store
        self._lock = None if store.folder is None else _lock(store.folder, self.id)
        if self._lock:
            self._lock.acquire(timeout=0)
        with store.transaction() as db:
            db.execute(
                "INSERT INTO owners (id, name, pid, started_at) VALUES (?, ?, ?, ?)",
                (self.id, name, os.getpid(), now_us),
            )

    def leave(self, now_us: int) -> None:
        """End this owner: what it left running is interrupted, what waits is left to whoever plans its task."""
        try:
            with self._store.transaction() as db:
                records.let_go(db, self.id, now_us)
        finally:  # what could not be written now is written by whoever finds the lock free
            if self._lock:
                self._lock.release()
                with suppress(OSError):  # a folder that cannot be written any more
                    Path(self._lock.lock_file).unlink(missing_ok=True)


def others(store: SqliteStore, owner: str) -> list[str]:
    """Return the owners that have not left, without this one; whether they live is another question."""
    return [str(row[0]) for row in store.rows("SELECT id FROM owners WHERE ended_at IS NULL AND id != ?", owner)]


def sweep(store: SqliteStore) -> None:
    """Remove the locks of owners that died before they were known."""
    known = set(others(store, ""))
    for lock in store.folder.glob("*.lock") if store.folder else ():
        try:
            old = time.time() - lock.stat().st_mtime > _LONG_ENOUGH_S
        except OSError:
            continue  # its owner has just left
        if old and lock.stem not in known:
            alive(store, lock.stem)  # which removes it when nobody holds it


def _with_work(store: SqliteStore) -> list[str]:
    """Return the owners that have not left or still have live rows: one that was taken for dead goes on claiming."""
    sql = """SELECT id FROM owners WHERE ended_at IS NULL
        UNION SELECT owner FROM executions INDEXED BY live
            WHERE status IN ('waiting', 'running') AND owner IS NOT NULL"""
    return [str(row[0]) for row in store.rows(sql)]


def reconcile(store: SqliteStore, now_us: int) -> list[str]:
    """Mark what owners that are gone left running as interrupted, once nothing of it runs; return the execution ids.

    Blocks while what they started is ended, which takes some seconds at most.
    """
    gone = [owner for owner in _with_work(store) if not alive(store, owner)]
    if not gone:
        return []
    for owner in gone:
        end_children(owner)
        for left in Path(gettempdir()).glob(f"{scratch(owner)}*"):
            shutil.rmtree(left, ignore_errors=True)
    with store.transaction() as db:
        return [execution for owner in gone for execution in records.let_go(db, owner, now_us)]


def scratch(owner: str) -> str:
    """Return how the names of an owner's temporary folders begin: whoever finds it gone removes them."""
    return f"car-{owner}-"


def alive(store: SqliteStore, owner: str) -> bool:
    """Tell whether an owner of this store still lives."""
    if store.folder is None:
        return True
    path = _path(store.folder, owner)
    if not path.exists():
        return False
    probe = FileLock(path)
    try:
        probe.acquire(timeout=0)
    except (Timeout, OSError):  # held, or not to be opened now: nothing says that it is gone
        return True
    with suppress(OSError):
        path.unlink(missing_ok=True)
    probe.release()
    return False


def _path(folder: Path, owner: str) -> Path:
    return folder / f"{owner}.lock"


def _lock(folder: Path, owner: str) -> FileLock:
    folder.mkdir(mode=0o700, exist_ok=True)
    # It is taken and released by different threads; filelock's default would keep one lock for each of them.
    return FileLock(_path(folder, owner), mode=0o600, thread_local=False)
