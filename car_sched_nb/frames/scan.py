"""Many rows out of SQLite as columns: fast, small, and without holding up the engine.

A row as a tuple of Python objects costs microseconds and a lock that the engine wants too. Here SQLite itself joins
each column of many rows into one text (`group_concat`), in one step that needs no lock of Python's, and numpy and
Arrow take the texts apart. A second SQLite library on the same file would break its locks, so that is no way.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

from car_sched_nb.errors import StoreError
from car_sched_nb.frames.gathered import NOT_A_TIME, Codes, Gathered, Kind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from car_sched_nb.store.sqlite import Readable, SqliteStore

CHUNK = 10_000
"""Rows that one statement joins: their texts stay small enough for memory that malloc has at hand already."""

FEW = 50_000
"""Up to so many rows are found by the filter's index; for more of them the whole table is read."""

FEWEST = 1_000
"""Of fewer a thread has no use."""

_THREADS = 2
_PIECE_BYTES = 30_000_000  # with all that is made of it, and less than the most that glibc goes up to by itself
Array = Any  # np.ndarray | pa.LargeStringArray | Codes


class Column(NamedTuple):
    """An SQL expression and how it is read.

    `int` is never NULL, `maybe` has numpy's "not a time" for NULL, `number` is a double with NaN for NULL, `text` has
    no NUL and is NULL when empty, `code` the same with few different ones. `usual` is what most rows have, as an SQL
    literal: only the others are read then.
    """

    sql: str
    kind: Kind
    usual: str | None = None


class _Piece(NamedTuple):
    """Columns of some rows: whole, or of those that are not as usual, which are `at` these places."""

    length: int
    at: np.ndarray[Any, Any]
    arrays: list[Array]


def scan(
    store: SqliteStore, source: str, bound: Sequence[Any], columns: Sequence[Column], limit: int | None = None
) -> list[Array]:
    """Return columns of executions in the order of their `seq`; from any thread.

    Rows that are written meanwhile are not among them, and no row is half of before and half of after a change.

    Parameters
    ----------
    source
        `FROM executions e WHERE ...`, with `?` for `bound`, and `{i}` before each column whose index is of no use when
        much of the table is read.
    limit
        Only the newest so many.

    Returns
    -------
    list
        A column for each: numpy int64 for `int` and `maybe`, float64 for `number`, a `pyarrow.LargeStringArray` for
        `text`, `Codes` for `code`.

    Raises
    ------
    StoreError
        When the store cannot be read.
    """
    indexed, plain = source.replace("{i}", ""), source.replace("{i}", "+")
    newest = limit is not None and limit <= FEW
    many = not newest and bool(store.rows(f"SELECT 1 {indexed} LIMIT 1 OFFSET {FEW}", *bound))
    first, last = _range(store, plain if many else indexed, bound, limit)
    if not many:
        # Each of these rows is far from the next: it is read once, with all of its columns.
        columns_read = [column._replace(usual=None) for column in columns]
        step = max(FEWEST, -(-(last + 1 - first) // _THREADS))
        where = f"{indexed} AND {'' if newest else '+'}e.seq BETWEEN ? AND ?"
    else:
        columns_read, step, where = list(columns), CHUNK, f"{plain} AND e.seq BETWEEN ? AND ?"
    ranges = [(low, min(low + step - 1, last)) for low in range(first, last + 1, step)]
    if many:
        _keep_freed()
    read = partial(_at_one_instant, store, where, bound, columns_read)
    with ThreadPoolExecutor(_THREADS, "car-scan", _step_back) as pool:
        found = chain.from_iterable(pool.map(partial(_in_parts, read), ranges))
        # Of a few rows most of the range is others: memory for all of it would cost more than they do.
        whole = _together(found, columns_read, last + 1 - first) if many else _together(list(found), columns_read)
    if many:
        _give_back()
    # Some may have become what is asked for after the range was found.
    return whole if limit is None else [_newest(one, limit) for one in whole]


def _newest(column: Array, limit: int) -> Array:
    return Codes(column.places[-limit:], column.texts) if isinstance(column, Codes) else column[-limit:]


def _together(pieces: Iterable[_Piece], columns: Sequence[Column], most: int | None = None) -> list[Array]:
    """Put pieces of so many rows at most together, or, when they are all there, of as many as they have."""
    if most is None:
        most = sum(piece.length for piece in pieces)
    gathered = [Gathered(column.kind, column.usual, most) for column in columns]
    for piece in pieces:
        for column, array in zip(gathered, piece.arrays, strict=True):
            column.add(array, piece.length, piece.at)
    return [column.whole() for column in gathered]


def _step_back() -> None:
    """Let other threads of this machine on first; of those of a process only Linux lets one be nicer."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _keep_freed() -> None:
    """Let malloc use the memory of a piece for the next one, and not return it in between.

    Of glibc's it does so once a block of that size was freed, which some array of a notebook mostly was before.
    """
    import numpy as np

    np.empty(_PIECE_BYTES, np.uint8)


def _give_back() -> None:
    """Return the memory of the joined texts to the system, before the columns take theirs; glibc alone keeps it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _range(store: SqliteStore, source: str, bound: Sequence[Any], limit: int | None) -> tuple[int, int]:
    """Return the first and last `seq` of the newest rows; of no row a range that is empty."""
    if limit is None:
        first, last = store.rows(f"SELECT min(e.seq), max(e.seq) {source}", *bound)[0]
    else:
        newest = f"SELECT e.seq {source} ORDER BY e.seq DESC LIMIT ?"
        first, last = store.rows(f"SELECT min(seq), max(seq) FROM ({newest})", *bound, limit)[0]
    return (1, 0) if first is None else (first, last)


def pieces(
    view: Readable, source: str, bound: Sequence[Any], columns: Sequence[Column], rows: int
) -> Iterator[list[Array]]:
    """Yield what `scan` returns in pieces of so many rows at most, and one that is empty when there is none."""
    indexed, plain = source.replace("{i}", ""), source.replace("{i}", "+")
    count, first, last = view.rows(f"SELECT count(*), min(e.seq), max(e.seq) {indexed}", *bound)[0]
    if count <= min(FEW, rows):
        columns = [column._replace(usual=None) for column in columns]
        seqs = (first, last) if count else (1, 0)
        where, ranges = f"{indexed} AND +e.seq BETWEEN ? AND ?", [seqs]
    else:
        where = f"{plain} AND e.seq BETWEEN ? AND ?"
        ranges = [(low, low + rows - 1) for low in range(first, last + 1, rows)]
    read = partial(_piece, view, where, bound, columns)
    for piece in chain.from_iterable(map(partial(_in_parts, read), ranges)):
        yield _together([piece], columns)


def _at_one_instant(
    store: SqliteStore, where: str, bound: Sequence[Any], columns: Sequence[Column], seqs: tuple[int, int]
) -> _Piece:
    with store.snapshot() as view:
        return _piece(view, where, bound, columns, seqs)


def _in_parts(read: Callable[[tuple[int, int]], _Piece], seqs: tuple[int, int]) -> list[_Piece]:
    """Read a range of `seq`, in halves where its texts together are longer than SQLite lets one be."""
    low, high = seqs
    try:
        return [read(seqs)]
    except apsw.TooBigError as error:
        if low >= high:
            raise StoreError(f"the texts of the execution with seq {low} are too long to be read") from error
    middle = (low + high) // 2
    return [*_in_parts(read, (low, middle)), *_in_parts(read, (middle + 1, high))]


def _piece(
    view: Readable, where: str, bound: Sequence[Any], columns: Sequence[Column], seqs: tuple[int, int]
) -> _Piece:
    """Read the rows of a range of `seq`."""
    values = (*bound, *seqs)
    sparse = [column for column in columns if column.usual is not None]
    rows, *found = _read(view, where, values, [column for column in columns if column.usual is None])
    at, others = _unusual(view, where, values, sparse, rows) if sparse else (rows[:0], [])
    dense, rest = iter(found), iter(others)
    return _Piece(len(rows), at, [next(dense if column.usual is None else rest) for column in columns])


def _unusual(
    view: Readable, where: str, values: Sequence[Any], columns: Sequence[Column], rows: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], list[Array]]:
    """Read the columns that mostly have their usual value, where one has another; return which of `rows` those are."""
    import numpy as np

    other = " OR ".join(f"{column.sql} IS NOT {column.usual}" for column in columns)
    found, *arrays = _read(view, f"{where} AND ({other})", values, columns)
    return np.asarray(np.searchsorted(rows, found)), arrays


def _read(view: Readable, where: str, values: Sequence[Any], columns: Sequence[Column]) -> list[Array]:
    """Return `seq` and the columns of the rows that are found, in the order of `seq`."""
    wanted = [Column("e.seq", "int"), *columns]
    texts = ", ".join(f"CAST({_SQL[column.kind].format(column.sql)} AS BLOB)" for column in wanted)
    count, *joined = view.rows(f"SELECT count(*), {texts} {where}", *values)[0]
    found = [_READ[column.kind](text or b"", count) for column, text in zip(wanted, joined, strict=True)]
    seqs = found[0]
    if (seqs[1:] > seqs[:-1]).all():
        return found
    order = seqs.argsort()
    return [_taken(one, order) for one in found]


def _taken(one: Array, order: np.ndarray[Any, Any]) -> Array:
    import numpy as np
    import pyarrow as pa

    if isinstance(one, Codes):
        return Codes(one.places[order], one.texts)
    return one[order] if isinstance(one, np.ndarray) else one.take(pa.array(order))


_SQL = {
    "int": "group_concat({0})",
    "maybe": f"group_concat(coalesce({{0}}, {NOT_A_TIME}))",
    "number": "group_concat(coalesce({0}, ''), x'00')",
    "text": "group_concat(coalesce({0}, ''), x'00')",
    "code": "group_concat(coalesce({0}, ''), x'00')",
}


def _integers(text: bytes, count: int) -> np.ndarray[Any, Any]:
    import numpy as np

    found = np.fromstring(text, np.int64, sep=",") if count else np.empty(0, np.int64)
    if len(found) != count:
        raise StoreError("a number of the history is none: its store was written by another program")
    return found


def _texts(text: bytes, count: int) -> pa.Array:
    """Take a joined text apart; what is empty is NULL."""
    import numpy as np
    import pyarrow as pa

    if len(text) < max(count, 1):  # the separators alone
        return pa.nulls(count, pa.large_string())
    joined = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(joined == 0)
    if len(ends) != count - 1:
        raise StoreError("a text of the history holds a NUL: its store was written by another program")
    offsets = np.empty(count + 1, np.int64)
    offsets[0], offsets[-1] = 0, len(joined) - (count - 1)
    np.subtract(ends, np.arange(count - 1), out=offsets[1:-1])
    there = offsets[1:] > offsets[:-1]
    return pa.LargeStringArray.from_buffers(
        count,
        pa.py_buffer(offsets),
        pa.py_buffer(joined[joined != 0]),
        None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little")),
    )


def _numbers(text: bytes, count: int) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    found: np.ndarray[Any, Any] = _texts(text, count).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _codes(text: bytes, count: int) -> Codes:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    first, _, _ = text.partition(b"\0")
    if first and len(text) == (len(first) + 1) * count - 1 and text == b"\0".join([first] * count):
        # All rows have the same: mostly so, and a tenth of the work.
        return Codes(np.zeros(count, np.int64), [first.decode()])
    # Arrow's own pool takes fresh pages for each piece; the system's has those of the pieces before.
    encoded = pc.dictionary_encode(_texts(text, count), memory_pool=pa.system_memory_pool())
    places = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
    return Codes(places.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())


_READ = {"int": _integers, "maybe": _integers, "number": _numbers, "text": _texts, "code": _codes}
