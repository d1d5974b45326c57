"""A copy of a store, or of a part of its history, as a store of its own in one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from car_sched_nb.store import schema
from car_sched_nb.store.sqlite import SqliteStore

EVERYTHING = "TRUE"
"""The condition that all executions fit."""

_ROWS = 20_000
"""Executions that one statement copies: an interrupt is heard after it."""

# Whoever finds a live row of an owner ends what that owner's processes run, and takes over what waits: of a copy that
# would be the work of the original. Messages would be delivered twice, and files beside the original removed.
_NOBODYS = """
    UPDATE executions SET status = 'interrupted', finished_at = max(:now, coalesce(started_at, 0)),
        error = 'it was ' || status || ' when this copy was made', error_type = 'Copied',
        wait_reason = NULL, not_before = NULL, cancel_asked = NULL
        WHERE status IN ('waiting', 'running');
    UPDATE outputs SET path = NULL, artifact = NULL WHERE path IS NOT NULL OR artifact IS NOT NULL;
    UPDATE owners SET ended_at = coalesce(ended_at, :now);
    DELETE FROM armed;
    DELETE FROM deliveries;
    DELETE FROM settings WHERE :namespace IS NOT NULL AND namespace NOT IN ('', :namespace);
    CREATE TABLE IF NOT EXISTS copied (at INTEGER NOT NULL);
    DELETE FROM copied;
    INSERT INTO copied VALUES (:now)"""
_BELONGING = """
    INSERT INTO copy.tasks SELECT * FROM tasks
        WHERE :whole AND (:namespace IS NULL OR namespace = :namespace)
            OR id IN (SELECT DISTINCT task_id FROM copy.executions);
    INSERT INTO copy.outputs SELECT o.* FROM copy.executions c CROSS JOIN outputs o ON o.execution_id = c.execution_id;
    INSERT INTO copy.owners SELECT * FROM owners WHERE id IN (SELECT DISTINCT owner FROM copy.executions);
    INSERT INTO copy.settings SELECT * FROM settings WHERE :whole"""


def copy_into(
    path: Path,
    store: SqliteStore,
    where: str,
    bound: Sequence[Any],
    limit: int | None = None,
    *,
    namespace: str | None,
    whole: bool,
    now_us: int,
) -> int:
    """Copy executions as they are now, with their tasks, owners and outputs; return how many.

    What runs or waits is `interrupted` in the copy, so that it is nobody's. Messages that are still to be delivered
    and the paths of files beside the store stay with the original.

    Parameters
    ----------
    path
        A file that is there and empty.
    where, bound, limit
        A condition on `executions e`, and how many of the newest.
    namespace
        Whose tasks and settings; None for all.
    whole
        Copy all of these, also tasks that have never run; else only the tasks of the copied executions.

    Raises
    ------
    OSError
        When the copy cannot be written.
    """
    given = {"namespace": namespace, "whole": whole, "now": now_us}
    indexes: list[str] = []
    if whole and where == EVERYTHING and limit is None:
        with store.alone() as db, _told_of_the_copy(db):
            db.execute("VACUUM INTO ?", (str(path),))
    else:
        indexes = _make_empty(path)
        _insert(path, store, where, bound, limit, given)
    with _opened(path) as copy:
        copy.execute(_NOBODYS, given)
        for index in indexes:  # quicker now than row by row
            copy.execute(index)
        return int(str(copy.execute("SELECT count(*) FROM executions").get))


def _insert(
    path: Path, store: SqliteStore, where: str, bound: Sequence[Any], limit: int | None, given: dict[str, Any]
) -> None:
    with store.alone() as db, _told_of_the_copy(db):
        db.execute("ATTACH ? AS copy", (str(path),))
        try:
            _unguarded(db, "copy")
            db.execute("BEGIN")
            try:
                where, bound = newest(lambda sql, *values: db.execute(sql, values).fetchall(), where, bound, limit)
                _executions(db, where, bound)
                db.execute(_BELONGING, given)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        finally:
            db.execute("DETACH copy")


def _executions(db: apsw.Connection, where: str, bound: Sequence[Any]) -> None:
    found: list[Any] = db.execute(f"SELECT min(e.seq), max(e.seq) FROM executions e WHERE {where}", bound).fetchall()
    first, last = found[0]
    for low in range(first, last + 1, _ROWS) if first is not None else ():
        db.execute(
            f"INSERT INTO copy.executions SELECT e.* FROM executions e WHERE {where} AND e.seq BETWEEN ? AND ?",
            (*bound, low, low + _ROWS - 1),
        )


def newest(
    query: Callable[..., list[tuple[Any, ...]]], where: str, bound: Sequence[Any], limit: int | None
) -> tuple[str, list[Any]]:
    """Return a condition for the newest so many of what fits another; for queries of the same instant."""
    if limit is None:
        return where, [*bound]
    last = f"SELECT e.seq FROM executions e WHERE {where.replace('{i}', '')} ORDER BY e.seq DESC LIMIT ?"
    first = query(f"SELECT min(seq) FROM ({last})", *bound, limit)[0][0]
    return ("FALSE", []) if first is None else (f"{where} AND e.seq >= ?", [*bound, first])


def _make_empty(path: Path) -> list[str]:
    """Make an empty store without the indexes of its executions; return their statements."""
    with _opened(path) as db:
        for step in schema.STEPS:
            db.execute(step)
        db.pragma("application_id", schema.APPLICATION_ID)
        db.pragma("user_version", schema.VERSION)
        indexes: list[Any] = db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'executions' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            db.execute(f"DROP INDEX {name}")
        return [sql for _, sql in indexes]


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    """Open a copy that is being made; nobody else knows it."""
    db = apsw.Connection(str(path))
    try:
        with _told_of_the_copy(db):
            _unguarded(db, "main")
            with db:
                yield db
    finally:
        db.close()


def _unguarded(db: apsw.Connection, name: str) -> None:
    """Write without a journal: what does not come to its end is thrown away as a whole."""
    db.pragma("journal_mode", "off", schema=name)
    db.pragma("synchronous", "off", schema=name)


@contextmanager
def _told_of_the_copy(db: apsw.Connection) -> Iterator[None]:
    """Raise what the system says of the copy as it would say of any file; the original is only read."""
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
        number = db.system_errno
        raise OSError(number, os.strerror(number) if number else str(error)) from error


def why_not_replaced(path: Path) -> str | None:
    """Return why a database may not be replaced by a copy, or None for a copy in which nobody has worked since."""
    if path.stat().st_size == 0:
        return None
    if any(Path(f"{path}{more}").exists() for more in ("-wal", "-journal")):
        return "somebody has it open"
    try:
        # Without a journal nothing is beside the file, and nothing shall be: a look would make one for a store in WAL.
        unchanging = f"file:{quote(str(path))}?immutable=1"
        db = apsw.Connection(unchanging, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            used = db.execute("SELECT count(*) FROM owners, copied WHERE owners.started_at > copied.at").get
        finally:
            db.close()
    except apsw.Error:
        return "it is a store or another program's, not a copy that was exported"
    return "a scheduler has worked in it since it was exported" if used else None
