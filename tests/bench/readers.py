"""Other ways to read the store's history into pandas: the same columns with the same names, as they come.

Nothing makes instants, categories or shared names of them here; that would cost them more.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.figures import STORE, Figures, UnfinishedError, percentile, resident_bytes

COLUMNS = """e.execution_id, e.task_id, t.name AS task, t.namespace, e.trigger, e.slot, e.attempt, e.status,
    e.scheduled_at, e.started_at, e.finished_at, e.duration, e.started_at - e.scheduled_at AS lateness, e.slots,
    e.cause, e.reason, e.version, e.params, e.runner, e.executor, o.name AS owner, e.answer, e.error, e.error_type,
    e.turns, e.tool_calls, e.tokens_in, e.tokens_out, e.cost, e.model"""
ALL = f"SELECT {COLUMNS} FROM executions e JOIN tasks t ON t.id = e.task_id LEFT JOIN owners o ON o.id = e.owner"


def reader(how: str, path: str = STORE) -> Callable[[str], Any]:
    """Return what makes a frame of a query."""
    import pandas as pd

    connection: Any
    if how == "connectorx":
        import connectorx

        return lambda sql: connectorx.read_sql(f"sqlite://{Path(path).absolute()}", sql)
    if how == "adbc":
        from adbc_driver_sqlite import dbapi

        connection = dbapi.connect(path)
    elif how == "sqlalchemy":
        import sqlalchemy

        connection = sqlalchemy.create_engine(f"sqlite:///{path}")
    else:
        connection = sqlite3.connect(path)
    return lambda sql: pd.read_sql(sql, connection)


def whole(how: str) -> Figures:
    """Time all of the history, once."""
    read, held = reader(how), count()
    return timed(lambda: read(f"{ALL} ORDER BY e.seq"), lambda: read(f"{ALL} LIMIT 3"), held)


def part(how: str, times: int) -> Figures:
    """Time the executions of a task, again and again."""
    read = reader(how)
    return timed_part(lambda: read(f"{ALL} WHERE t.name = 'task7' ORDER BY e.seq"), times, count("task7"))


def count(task: str = "") -> int:
    """Return how many executions there are, of a task or of all."""
    of_task = "WHERE task_id = (SELECT id FROM tasks WHERE name = ?)" if task else ""
    db = sqlite3.connect(STORE)
    held: int = db.execute(f"SELECT count(*) FROM executions {of_task}", (task,) if task else ()).fetchone()[0]
    db.close()
    return held


def timed(read: Callable[[], Any], little: Callable[[], Any], held: int) -> Figures:
    """Time a reading, and how much memory it takes at the peak; what it imports is there already."""
    little()
    before = resident_bytes()
    began = time.perf_counter()
    frame = read()
    took_s = time.perf_counter() - began
    check(frame, held)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"s": took_s, "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / 1e6}


def timed_part(read: Callable[[], Any], times: int, held: int) -> Figures:
    """Time a reading several times, the first not counted."""
    check(read(), held)
    took_s = []
    for _ in range(times):
        began = time.perf_counter()
        read()
        took_s.append(time.perf_counter() - began)
    return {"p50_ms": percentile(took_s, 0.5) * 1000, "max_ms": max(took_s) * 1000, "rows": held}


def check(frame: Any, held: int) -> None:
    """Refuse a figure of less than was there."""
    if not held or len(frame) != held:
        raise UnfinishedError(len(frame), held)
