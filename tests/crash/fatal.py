"""Lives that die by their own hand at an exact point of a write: before a statement, or right after a commit."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

import apsw

from tests.crash import life


def live(store: str, log: str, grid: str, point: int) -> None:
    """Live calmly, and die at the `point`-th point from 1 on, when there are so many."""
    points = itertools.count(1)

    def reach() -> None:
        if next(points) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(db: apsw.Connection) -> None:
        def before(by: apsw.Cursor | apsw.Connection, sql: str, bindings: Any) -> bool:
            if db.in_transaction or not sql.lstrip().startswith("SELECT"):
                reach()
            return True

        def after_commit(db: apsw.Connection, name: str, pages: int) -> int:
            reach()
            return apsw.SQLITE_OK

        db.exec_trace = before
        db.set_wal_hook(after_commit)

    apsw.connection_hooks.append(watch)
    life.live_calmly(store, log, grid)
