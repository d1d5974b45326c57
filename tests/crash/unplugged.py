"""Lives whose power is cut."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw

from tests.crash import life
from tests.crash.disk import Disk

CHECKPOINT_PAGES = 40  # instead of 1,000: in a short life, too, the journal is folded into the file and begun anew


def live(store: str, log: str, grid: str, after: str, last: int, careless: bool) -> None:
    """Live on a disk that loses power at its `last` write or sync; careless, commits do not wait for it."""
    disk = Disk(Path(after), last, random.Random(last))

    def watch(db: apsw.Connection) -> None:
        def do_not_wait(by: Any, sql: str, bindings: Any) -> bool:
            if sql.startswith("BEGIN"):
                db.pragma("synchronous", "normal")
            return True

        assert db.open_vfs == disk.name
        db.wal_autocheckpoint(CHECKPOINT_PAGES)
        if careless:
            db.exec_trace = do_not_wait

    apsw.connection_hooks.append(watch)
    life.live(store, log, grid)
