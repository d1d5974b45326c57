"""The history as a file, in the format that its ending names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from car_sched_nb.errors import InvalidInput, nearest
from car_sched_nb.frames import asked, formats
from car_sched_nb.frames.history import batches, filters
from car_sched_nb.frames.whole import target, written_whole
from car_sched_nb.store import copying
from car_sched_nb.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from car_sched_nb.frames.history import Instant

COPIES = (".db", ".sqlite", ".sqlite3")
ENDINGS = (*formats.WRITERS, *COPIES)
_ROWS = 50_000
"""Executions in memory at once."""


class Exported(msgspec.Struct, frozen=True):
    """A file that was written; what takes a path takes it: `pd.read_parquet(car.export("runs.parquet"))`."""

    path: Path
    rows: int
    size: int
    """Bytes."""

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    def __repr__(self) -> str:
        size = f"{self.size / 1e6:,.1f} MB" if self.size >= 1e5 else f"{self.size / 1e3:,.1f} kB"
        return f"{self.rows:,} execution{'s' * (self.rows != 1)} written to {self.path} ({size})"


class Chosen(msgspec.Struct, frozen=True):
    """A condition on `executions e`, and whether it leaves none of a namespace out."""

    where: str
    bound: Sequence[object]
    namespace: str | None = None
    whole: bool = False


def export(
    store: SqliteStore,
    path: str | os.PathLike[str],
    *,
    namespace: str | None = None,
    task: str | Sequence[str] | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: str | Sequence[str] | None = None,
    runner: str | Sequence[str] | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    overwrite: bool = True,
    now_us: int,
) -> Exported:
    """Write executions to a file; `car.export` says how."""
    if limit is not None:
        limit = asked.whole(limit, "limit")
    where, bound = filters(store, namespace, task, since, until, status, runner, now_us)
    whole = all(one is None for one in (task, since, until, status, runner, limit))
    chosen = Chosen(where, bound, namespace, whole)
    return write(store, path, chosen, limit=limit, columns=columns, overwrite=overwrite, now_us=now_us)


def these(seqs: Sequence[int]) -> Chosen:
    """Choose executions by their numbers."""
    return Chosen("e.seq IN (SELECT value FROM json_each(?))", [msgspec.json.encode(seqs).decode()])


def write(
    store: SqliteStore,
    path: str | os.PathLike[str],
    chosen: Chosen,
    *,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    overwrite: bool = True,
    now_us: int,
) -> Exported:
    """Write chosen executions to a file, all of it or nothing."""
    ending = ending_of(path)
    found = target(path)
    _refuse_store(found, store)
    if found.exists() and not overwrite:
        raise InvalidInput(f"{found} is there already; give another name")
    if ending in COPIES:
        _refuse_database(found, columns)
    with written_whole(found, overwrite=overwrite) as part:
        if ending in COPIES:
            rows = _copy(store, part, chosen, limit, now_us)
        else:
            rows = _write(store, part, ending, chosen, limit, columns)
    return Exported(found, rows, found.stat().st_size)


def ending_of(path: str | os.PathLike[str]) -> str:
    """Return the ending of a path that says the format.

    Raises
    ------
    InvalidInput
        For one that is not known; it lists them.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidInput(f"a path is text, such as 'runs.parquet', or a Path, not {path!r}")
    name = Path(path).name.lower()
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(ending) and name != ending:
            return ending
    given = "".join(Path(name).suffixes[-2:]) if name.endswith(".gz") else Path(name).suffix
    listed = ", ".join(ENDINGS)
    asked = f"no format is known for the ending {given!r}" if given else f"{str(path)!r} has no ending"
    raise InvalidInput(f"{asked}{nearest(given, ENDINGS, none=';')} the ending says the format: {listed}")


def _write(
    store: SqliteStore, part: Path, ending: str, chosen: Chosen, limit: int | None, columns: Sequence[str] | None
) -> int:
    with store.snapshot() as view, formats.opened(str(part), ending) as file:
        where, bound = copying.newest(view.rows, chosen.where, chosen.bound, limit)
        frames = batches(view, where, bound, columns, _ROWS)
        return formats.WRITERS[ending](file, formats.tables(frames))


def _copy(store: SqliteStore, part: Path, chosen: Chosen, limit: int | None, now_us: int) -> int:
    where = chosen.where.replace("{i}", "+")
    return copying.copy_into(
        part, store, where, chosen.bound, limit, namespace=chosen.namespace, whole=chosen.whole, now_us=now_us
    )


def _refuse_store(path: Path, store: SqliteStore) -> None:
    """Refuse to write over the store itself, by whichever name."""
    for more in ("", "-wal", "-shm", "-journal"):
        ours = Path(f"{store.path}{more}")
        if path == ours.resolve() or (path.exists() and ours.exists() and path.samefile(ours)):
            raise InvalidInput(f"{path} is the store itself; give another path for what is exported from it")


def _refuse_database(path: Path, columns: Sequence[str] | None) -> None:
    if columns is not None:
        raise InvalidInput("a copy of the store has all columns; leave columns= out, or write to .parquet or .csv")
    if path.exists() and (why := copying.why_not_replaced(path)):
        raise InvalidInput(f"{path} is not replaced: {why}; give another name, or remove it first")
