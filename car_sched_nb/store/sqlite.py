"""The store: SQLite through apsw, in a file (WAL, FULL, 0600) or in memory.

Two copies of SQLite in one process break each other's locks on one file, so nothing else may open it there.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw
import msgspec

from car_sched_nb.errors import (
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreForked,
    StoreFull,
    StoreGone,
    StoreNotADatabase,
    StoreOnNetwork,
    StoreReadOnly,
    StoreTooNew,
    StoreUnusable,
)
from car_sched_nb.store import schema
from car_sched_nb.store.ops import NOT_WRITTEN, End, Finish, Finished, Op, Row, Settle, Settled, Start

T = TypeVar("T")
MEMORY = ":memory:"
_numbers = itertools.count()
_BUSY_S = 10.0
_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.1
_sleep = time.sleep  # the real one: in a body's thread it is made to wake at a cancel
_NETWORK_KINDS = frozenset("nfs nfs4 cifs smb smb2 smb3 smbfs afs 9p fuse.sshfs fuse.glusterfs ceph lustre".split())
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_OF_THE_FILE = (
    *(apsw.ReadOnlyError, apsw.FullError, apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.CantOpenError),
    *(apsw.PermissionsError, apsw.NoLFSError),
)
_ROW = Row.__struct_fields__
_LOST, _WON = Settled(won=False, claimed=False), Settled(won=True, claimed=False)
_CLAIMED = Settled(won=True, claimed=True)
_WRITTEN = Finished(written=True)
_END = [name for name in End.__struct_fields__ if name not in ("execution_id", "owner")]


def _columns(names: Sequence[str], offset: int = 0) -> str:
    return ", ".join(f"value ->> {i + offset} AS {name}" for i, name in enumerate(names))


_SETTLE = """
    UPDATE tasks SET cursor = coalesce(j.cursor, tasks.cursor),
        next_at = iif(j.cursor IS NULL, tasks.next_at, j.next_at),
        run_count = run_count + j.runs, last_run_at = iif(j.runs, j.at, last_run_at)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS revision, value ->> 2 AS version, value ->> 3 AS expected,
        value ->> 4 AS cursor, value ->> 5 AS next_at, value ->> 6 AS by_hand, value ->> 7 AS free,
        value ->> 8 AS runs, value ->> 9 AS at, value ->> 10 AS max_runs FROM jsonb_each(?)) AS j
    WHERE tasks.id = j.id AND tasks.deleted_at IS NULL AND tasks.revision = j.revision AND tasks.version = j.version
        AND (tasks.enabled OR j.by_hand) AND (j.expected IS NULL OR tasks.cursor = j.expected)
        AND (NOT j.runs OR NOT j.max_runs OR tasks.run_count < j.max_runs)
        AND NOT (j.free AND EXISTS (SELECT 1 FROM executions e INDEXED BY live
            WHERE e.task_id = tasks.id AND e.status IN ('waiting', 'running')))"""
# A gap from the same first slot is met again when the clock was set back: the two are one series, the longer one.
_INSERT = f"""
    INSERT OR IGNORE INTO executions ({", ".join(_ROW)})
    SELECT {_columns(_ROW)} FROM jsonb_each(?) WHERE true
    ON CONFLICT (execution_id) DO UPDATE SET slots = max(slots, excluded.slots), finished_at = excluded.finished_at
        WHERE executions.attempt = 0"""
_EXTEND = """
    UPDATE executions SET slots = slots + j.n, finished_at = j.at
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS n, value ->> 2 AS at FROM jsonb_each(?)) AS j
    WHERE execution_id = j.id"""
# What stands in the queue is not in the way of what is before it: older, or not of the queue at all.
_START = """
    UPDATE executions SET status = 'running', wait_reason = NULL, not_before = NULL, started_at = j.at,
        owner = j.owner, version = j.version, executor = j.executor
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS owner, value ->> 2 AS at, value ->> 3 AS version,
        value ->> 4 AS executor, value ->> 5 AS free FROM jsonb_each(?)) AS j
    WHERE execution_id = j.id AND executions.status = 'waiting' AND executions.cancel_asked IS NULL
        AND (executions.owner IS NULL OR executions.owner = j.owner)
        AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = executions.task_id AND t.deleted_at IS NULL
            AND (t.enabled OR executions.cause IN ('hand', 'backfill')))
        AND NOT (j.free AND EXISTS (SELECT 1 FROM executions e INDEXED BY live
            WHERE e.task_id = executions.task_id AND e.status IN ('waiting', 'running') AND e.seq != executions.seq
                AND NOT (e.wait_reason IS 'queue'
                    AND (executions.wait_reason IS NOT 'queue' OR e.seq > executions.seq))))"""
_FINISHED = f"""
    UPDATE executions SET wait_reason = NULL, not_before = NULL, {", ".join(f"{name} = j.{name}" for name in _END)}
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS claimed_by, {_columns(_END, 2)} FROM jsonb_each(?)) AS j
    WHERE execution_id = j.id AND executions.status IN ('waiting', 'running') AND executions.owner IS j.claimed_by"""
# Who asked a run to stop while it was failing did not mean its next attempt to go on.
_STILL_ASKED = """
    UPDATE executions SET cancel_asked = p.cancel_asked
    FROM (SELECT value ->> 0 AS next_id, value ->> 1 AS id FROM jsonb_each(?)) AS j
        JOIN executions p ON p.execution_id = j.id AND p.cancel_asked IS NOT NULL
    WHERE executions.execution_id = j.next_id"""
_FAILING = """
    SELECT t.id, t.failures FROM jsonb_each(?) j CROSS JOIN tasks t ON t.id = j.value WHERE t.failures > 0"""
_FAILURES = """
    UPDATE tasks SET failures = j.n, enabled = iif(j.paused, 0, enabled)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS n, value ->> 2 AS paused FROM jsonb_each(?)) AS j
    WHERE tasks.id = j.id"""
_OUTPUT = """
    INSERT OR REPLACE INTO outputs (execution_id, text, traceback, display, path, marks, transcript, artifact)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    FROM jsonb_each(?)"""


class Readable(Protocol):
    """What queries can be put to: a store, or a store as it was at one instant."""

    def rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        ...


class SqliteStore:
    """Tasks and history in one SQLite database.

    Parameters
    ----------
    path
        A file, made 0600 with its folder when missing, or `:memory:`.

    Raises
    ------
    StoreNotADatabase, StoreReadOnly, StoreTooNew, StoreOnNetwork
        On opening, each with what to do instead.
    """

    def __init__(self, path: str | os.PathLike[str] = MEMORY) -> None:
        self.path = str(path) if str(path) == MEMORY else str(Path(path).expanduser().absolute())
        self._write_lock = threading.RLock()
        self._readers: deque[apsw.Connection] = deque()
        self._pid = os.getpid()
        self._file: tuple[int, int] | None = None
        self._version = 0
        self._number = next(_numbers)
        self._versions: apsw.Connection | None = None  # it alone reads nothing else: the number is a connection's own
        self._version_lock = threading.Lock()
        self.commits = 0
        """Transactions through this object, by whichever scheduler."""
        if self.in_memory:
            self._write = apsw.Connection(MEMORY)
        else:
            _prepare_file(Path(self.path))
            self._file = _identity(self.path)
            self._write = self._connect()
            self._readers.append(self._connect(read=True))

    @property
    def in_memory(self) -> bool:
        """Whether it ends with this process."""
        return self.path == MEMORY

    @property
    def folder(self) -> Path | None:
        """Where locks and long outputs lie, beside the database; None in memory."""
        return None if self.in_memory else Path(self.path + ".d")

    def migrate(self) -> None:
        """Bring the schema up to date, step by step, each in one transaction."""
        with self.transaction() as db:
            found = db.pragma("user_version")
            if found > schema.VERSION:
                raise StoreTooNew(self.path, found, schema.VERSION)
            known = db.pragma("application_id")
            tables = db.execute("SELECT count(*) FROM sqlite_schema").get
            if known != schema.APPLICATION_ID and (known or tables):
                raise StoreNotADatabase(self.path, "a database of another program")
            for step in range(found, schema.VERSION):
                db.execute(schema.STEPS[step])
                db.pragma("application_id", schema.APPLICATION_ID)
                db.pragma("user_version", step + 1)

    def _connect(self, read: bool = False) -> apsw.Connection:
        with self._explained():
            try:
                db = apsw.Connection(self.path)
                db.set_busy_handler(_patience())
                if not read:
                    if db.readonly("main"):
                        raise StoreReadOnly(self.path)
                    _use_wal(db)
                # FULL, because a claim must survive a power cut before its work starts.
                db.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
                if read:
                    db.pragma("query_only", True)
            except apsw.NotADBError as error:
                raise StoreNotADatabase(self.path, "not an SQLite file") from error
            except (apsw.CantOpenError, apsw.PermissionsError) as error:
                raise StoreReadOnly(self.path, str(error)) from error
            self._check_file()
            return db

    def _check_file(self) -> None:
        """Refuse to go on with a file that has lost its name: what is written into it is gone with it."""
        if self._file is not None and _identity(self.path) != self._file:
            raise StoreGone(self.path)

    @contextmanager
    def _explained(self, db: apsw.Connection | None = None) -> Iterator[None]:
        """Turn what SQLite says of a file in trouble into an error that says what to do."""
        try:
            yield
        except apsw.Error as error:
            trouble = self._trouble(error, db)
            if trouble is None:
                raise
            raise trouble from error

    def _trouble(self, error: apsw.Error, db: apsw.Connection | None) -> StoreError | None:
        """Return what an error says of the file, or None when it is about the statement."""
        if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.ProtocolError):
            return StoreBusy(self.path)
        if isinstance(error, apsw.SQLError):
            return None if db is None or _is_ours(db) else StoreDamaged(self.path, "its tables are not there")
        if not isinstance(error, _OF_THE_FILE):
            return None
        if self._file is not None and _identity(self.path) != self._file:
            return StoreGone(self.path)
        if isinstance(error, apsw.FullError) or (db is not None and db.system_errno in _NO_ROOM):
            return StoreFull(self.path)
        if isinstance(error, apsw.ReadOnlyError):
            return StoreReadOnly(self.path, str(error))
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return StoreDamaged(self.path, str(error))
        return StoreUnusable(self.path, str(error))

    def check_process(self) -> None:
        """Refuse to work in a forked child."""
        # A forked child shares the connection's file and would commit what its parent has begun.
        if os.getpid() != self._pid:
            raise StoreForked(self.path)

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Hold the only write transaction; everything inside is committed together or not at all.

        Raises
        ------
        StoreError
            When the database is busy for longer than 10 s, full, damaged, deleted or replaced; nothing is written.
        """
        self.check_process()
        with self._write_lock, self._explained(self._write):
            self._write.execute("BEGIN IMMEDIATE")
            try:
                self._check_file()
                yield self._write
                self._write.execute("COMMIT")
                self.commits += 1
            except BaseException:
                # SQLite has already rolled back after some errors, a full disk among them.
                if self._write.in_transaction:
                    self._write.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; from any thread. A long one does not hold up the others."""
        return self._read(lambda cursor: cursor.fetchall(), sql, bindings)

    def map(self, fn: Callable[[tuple[Any, ...]], T], sql: str, *bindings: Any) -> list[T]:
        """Return what a function makes of each row, without holding all rows at once."""
        return self._read(lambda cursor: [fn(row) for row in cursor], sql, bindings)

    def _read(self, take: Callable[[apsw.Cursor], T], sql: str, bindings: tuple[Any, ...]) -> T:
        with self._reader() as reader:
            return take(reader.execute(sql, bindings))

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        self.check_process()
        if self.in_memory:
            with self._write_lock:
                yield self._write
            return
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._connect(read=True)
        try:
            with self._explained(reader):
                yield reader
        finally:
            self._readers.append(reader)

    @contextmanager
    def alone(self) -> Iterator[apsw.Connection]:
        """Hold a connection of one's own; in memory it is the only one, and everybody else waits."""
        self.check_process()
        if self.in_memory:
            with self._write_lock:
                yield self._write
            return
        db = self._connect()
        try:
            with self._explained(db):
                yield db
        finally:
            db.close()

    @contextmanager
    def snapshot(self) -> Iterator[Readable]:
        """Read the store as it is now, however long that takes; what is written meanwhile is not seen.

        Kept for seconds at most: the journal grows until it is let go. In memory the others wait instead.
        """
        with self._reader() as reader:
            if self.in_memory:
                yield _Snapshot(reader)
                return
            reader.execute("BEGIN")
            try:
                yield _Snapshot(reader)
            finally:
                if reader.in_transaction:
                    reader.execute("ROLLBACK")

    def data_version(self) -> tuple[int, int]:
        """Return what is another after anybody's commit, this object's too; of another object it is another as well."""
        with self._version_lock, self._explained(self._versions):
            if self._versions is None:
                self._versions = self._connect(read=True)
            return self._number, int(self._versions.pragma("data_version"))

    def changed_elsewhere(self) -> bool | None:
        """Tell whether another connection has written since the last time; None while this one is writing."""
        if self.in_memory or not self._write_lock.acquire(blocking=False):
            return None
        try:
            with self._explained(self._write):
                version: int = self._write.pragma("data_version")
        finally:
            self._write_lock.release()
        changed, self._version = version != self._version, version
        return changed

    def apply(self, batch: Sequence[Op]) -> list[Any]:
        """Write a batch in one transaction, each kind in one statement; return an answer each.

        A batch holds at most one `Settle` of a task. A `Call` that failed is answered by its exception.
        """
        with self.transaction() as db:
            # What ended is written first: its task is free for its next slot in the same batch.
            finished = _finish(db, [op for op in batch if isinstance(op, Finish)])
            started = _start(db, [op for op in batch if isinstance(op, Start)])
            settled = _settle(db, [op for op in batch if isinstance(op, Settle)])
            return [self._answer(db, op, settled, started, finished) for op in batch]

    def _answer(
        self, db: apsw.Connection, op: Op, settled: dict[str, Settled], started: set[str], finished: dict[str, Finished]
    ) -> Settled | Finished | bool | Any:
        if isinstance(op, Settle):
            return settled[op.task_id]
        if isinstance(op, Finish):
            return finished.get(op.end.execution_id, NOT_WRITTEN)
        if isinstance(op, Start):
            return op.execution_id in started
        db.execute("SAVEPOINT call")
        try:
            answer = op.fn(db)
        except Exception as error:
            if not db.in_transaction or (isinstance(error, apsw.Error) and self._trouble(error, db)):
                raise  # nothing of the batch is written: SQLite may have rolled all of it back already
            db.execute("ROLLBACK TO call; RELEASE call")
            return error  # it belongs to whoever asked, not to the batch
        db.execute("RELEASE call")
        return answer

    def close(self) -> None:
        """Close the connections; the last one folds the journal into the file. A forked child closes nothing."""
        if os.getpid() != self._pid:
            return  # what it inherited may be in the middle of its parent's transaction
        while self._readers:
            self._readers.pop().close()
        with self._version_lock:
            if self._versions is not None:
                self._versions.close()
                self._versions = None
        with self._write_lock:
            self._write.close()


class _Snapshot:
    """A store at one instant; from any thread, one at a time."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, bindings).fetchall()


def _identity(path: str) -> tuple[int, int] | None:
    """Tell a file apart from another of its name."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - once a transaction
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _patience() -> Callable[[int], bool]:
    """Return a busy handler: longer and longer jittered waits, so that several owners do not knock together."""
    until = 0.0

    def wait(tries: int) -> bool:
        nonlocal until
        now = time.monotonic()
        if tries == 0:
            until = now + _BUSY_S
        if now >= until:
            return False
        _sleep(min(_LONGEST_WAIT_S, _WAIT_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        return True

    return wait


def _use_wal(db: apsw.Connection) -> None:
    """Put a database into WAL mode; SQLite does not ask the busy handler when several do so at the same moment."""
    patience = _patience()
    for tries in itertools.count():
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if not patience(tries):
                raise
        else:
            return


def _is_ours(db: apsw.Connection) -> bool:
    try:
        return bool(db.pragma("application_id") == schema.APPLICATION_ID)
    except apsw.Error:
        return False


def _written(db: apsw.Connection, sql: str, ops: list[Any], ids: list[str], name: str) -> set[str]:
    """Write and return the ids of what was written; `name` is their column.

    Rows that come back are the dear part: for each, apsw gives the GIL up, and a computing thread may keep it for 5 ms.
    So they are asked for only when not all was written.
    """
    if not ops:
        return set()
    given = (_json(ops),)
    db.execute("SAVEPOINT written")
    db.execute(sql, given)
    if db.changes() == len(ops):
        db.execute("RELEASE written")
        return set(ids)
    db.execute("ROLLBACK TO written")
    found = {str(row[0]) for row in db.execute(f"{sql} RETURNING {name}", given)}
    db.execute("RELEASE written")
    return found


def _json(ops: object) -> str:
    return msgspec.json.encode(ops).decode()


def _settle(db: apsw.Connection, ops: list[Settle]) -> dict[str, Settled]:
    if not ops:
        return {}
    given = [
        (
            *(op.task_id, op.revision, op.version, op.expected, op.cursor, op.next_at),
            *(op.by_hand, op.free, int(op.claim is not None), op.now, op.max_runs),
        )
        for op in ops
    ]
    won = _written(db, _SETTLE, given, [op.task_id for op in ops], "tasks.id")
    winners = ops if len(won) == len(ops) else [op for op in ops if op.task_id in won]
    inserted = _insert(db, [row for op in winners for row in (op.gap, op.claim) if row])
    extended = [op.extend for op in winners if op.extend]
    if extended:
        db.execute(_EXTEND, (_json(extended),))
    answers = {op.task_id: _LOST for op in ops}
    refused = []
    for op in winners:
        claimed = op.claim is not None and op.claim.execution_id in inserted
        answers[op.task_id] = _CLAIMED if claimed else _WON
        if op.claim is not None and not claimed:
            refused.append(op.task_id)
    if refused:  # served before by another way, say `run_once`: it was settled but does not run again
        db.execute(
            "UPDATE tasks SET run_count = run_count - 1 WHERE id IN (SELECT value FROM json_each(?))", (_json(refused),)
        )
    return answers


def _insert(db: apsw.Connection, rows: list[Row]) -> set[str]:
    return _written(db, _INSERT, rows, [row.execution_id for row in rows], "execution_id")


def _start(db: apsw.Connection, ops: list[Start]) -> set[str]:
    return _written(db, _START, ops, [op.execution_id for op in ops], "execution_id")


def _finish(db: apsw.Connection, ops: list[Finish]) -> dict[str, Finished]:
    ends = [op.end for op in ops]
    finished = _written(db, _FINISHED, ends, [end.execution_id for end in ends], "execution_id")
    ended = ops if len(finished) == len(ops) else [op for op in ops if op.end.execution_id in finished]
    outputs = [op.output for op in ended if op.output]
    if outputs:
        db.execute(_OUTPUT, (_json(outputs),))
    retries = {op.end.execution_id: op.retry for op in ended if op.retry}
    if retries:
        _insert(db, list(retries.values()))
        db.execute(_STILL_ASKED, (_json([(retry.execution_id, id_) for id_, retry in retries.items()]),))
    answers = dict.fromkeys(finished, _WRITTEN)
    answers.update(_count_failures(db, [op for op in ended if op.failed is not None]))
    return answers


def _count_failures(db: apsw.Connection, ops: list[Finish]) -> dict[str, Finished]:
    """Count on, or end, the series of failures of the tasks; return the answers of those that had one."""
    if not ops or not (
        any(op.failed for op in ops) or db.execute("SELECT 1 FROM tasks WHERE failures > 0 LIMIT 1").fetchall()
    ):
        return {}
    rows: list[Any] = db.execute(_FAILING, (_json([op.task_id for op in ops]),)).fetchall()
    before: dict[str, int] = dict(rows)
    counts = dict(before)
    paused, answers = set(), {}
    for op in ops:
        count = counts.get(op.task_id, 0)
        answers[op.end.execution_id] = Finished(written=True, before=count)
        counts[op.task_id] = count + 1 if op.failed else 0
        if op.failed and op.max_failures and count + 1 >= op.max_failures:
            paused.add(op.task_id)
    changed = [(id_, n, id_ in paused) for id_, n in counts.items() if n != before.get(id_, 0) or id_ in paused]
    if changed:
        db.execute(_FAILURES, (_json(changed),))
    return answers


def _prepare_file(path: Path) -> None:
    """Make the folder and an empty file that only its user may read; the journal takes its mode over."""
    if path.is_dir():
        raise StoreNotADatabase(str(path), "a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_network(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except StoreError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(str(path)) from error
        raise StoreReadOnly(str(path), error.strerror or str(error)) from error


def refuse_network(folder: Path, mounts: str = "/proc/mounts") -> None:
    """Refuse a folder on a network file system, where the kernel tells (Linux)."""
    try:
        lines = Path(mounts).read_text(errors="replace").splitlines()
    except OSError:
        return
    # Spaces are written as \040; the newest mount of a point is the one that is seen, so it comes first.
    points = [
        (point.replace("\\040", " "), kind) for _, point, kind, *_ in (line.split(" ") for line in reversed(lines))
    ]
    real = str(folder.resolve())
    inside = [(p, k) for p, k in points if real == p or real.startswith(p.rstrip("/") + "/")]
    kind = max(inside, key=lambda found: len(found[0]), default=("", ""))[1]
    if kind in _NETWORK_KINDS:
        raise StoreOnNetwork(str(folder), kind)
