"""What the tests of faults share: another process that holds a database, and a process of its own for a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from car_sched_nb.engine import core, running
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Execution
from car_sched_nb.store import records, sqlite
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import HANG_S

ROOT = Path(__file__).parents[2]

_HOLD = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.set_busy_timeout(10_000)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
db.execute("ROLLBACK")
db.close()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have another process hold the database's write lock."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.communicate(timeout=HANG_S)


def run_script(text: str, *args: str, timeout_s: float = HANG_S) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own and return what it said."""
    return subprocess.run(
        [sys.executable, "-c", text, *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def be_impatient(monkeypatch: pytest.MonkeyPatch, busy_s: float = 0.05) -> None:
    """Let a minute of trouble pass in a moment."""
    monkeypatch.setattr(sqlite, "_BUSY_S", busy_s)
    monkeypatch.setattr(running, "AGAIN_S", 0.05)
    monkeypatch.setattr(core, "_RETRY_US", 50_000)


async def until_stored(scheduler: Scheduler, name: str, status: str) -> Execution:
    """Return a task's newest execution of a status as soon as there is one in the store."""
    while True:
        found = records.executions(scheduler.store, "t.name = ? AND e.status = ?", name, status, newest=1)
        if found:
            return found[0]
        await anyio.sleep(0.01)


def stored(path: Path) -> list[Execution]:
    """Return the executions in a store, oldest first."""
    store = SqliteStore(path)
    try:
        return records.executions(store)
    finally:
        store.close()
