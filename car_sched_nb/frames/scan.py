"""Many rows out of SQLite as columns: fast, small, and without holding up the engine.

A row as a tuple of Python objects costs microseconds and a lock that the engine wants too. Here SQLite itself joins
each column of many rows into one text (`group_concat`), in one step that needs no lock of Python's, and numpy and
Arrow take the texts apart. A second SQLite library on the same file would break its locks, so that is no way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from car_sched_nb.errors import StoreError

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
Kind = Literal["int", "maybe", "number", "text", "code"]
Array = Any  # np.ndarray | pa.ChunkedArray


class Column(NamedTuple):
    """An SQL expression and how it is read.

    `int` is never NULL, `maybe` has numpy's "not a time" for NULL, `number` is a double or NULL, `text` has no NUL
    and is NULL when empty, `code` the same with few different ones. `usual` is what most rows have, as an SQL literal:
    only the others are read then.
    """

    sql: str
    kind: Kind
    usual: str | None = None


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
        An array for each column: numpy int64 for `int` and `maybe`, else a `pyarrow.ChunkedArray` of large strings,
        dictionaries of them, or doubles.

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
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="car-scan") as pool:
        pieces = [
            piece[::-1] for piece in pool.map(partial(_at_one_instant, store, where, bound, columns_read), ranges)
        ]
    # Each is taken out of its pieces: nothing is there twice for longer than a column takes.
    joined = [_joined([piece.pop() for piece in pieces], column.kind) for column in columns]
    if many:
        _give_back()
    return joined


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
        every = [column._replace(usual=None) for column in columns]
        seqs = (first, last) if count else (1, 0)
        found = iter([_piece(view, f"{indexed} AND +e.seq BETWEEN ? AND ?", bound, every, seqs)])
    else:
        where, starts = f"{plain} AND e.seq BETWEEN ? AND ?", range(first, last + 1, rows)
        found = (_piece(view, where, bound, columns, (low, low + rows - 1)) for low in starts)
    for piece in found:
        yield [_joined([array], column.kind) for array, column in zip(piece, columns, strict=True)]


def _at_one_instant(
    store: SqliteStore, where: str, bound: Sequence[Any], columns: Sequence[Column], seqs: tuple[int, int]
) -> list[Array]:
    with store.snapshot() as view:
        return _piece(view, where, bound, columns, seqs)


def _piece(
    view: Readable, where: str, bound: Sequence[Any], columns: Sequence[Column], seqs: tuple[int, int]
) -> list[Array]:
    """Read the rows of a range of `seq`."""
    values = (*bound, *seqs)
    dense = [column for column in columns if column.usual is None]
    sparse = [column for column in columns if column.usual is not None]
    rows, *found = _read(view, where, values, dense)
    order = None
    if len(rows) > 1 and not (rows[1:] > rows[:-1]).all():
        order = rows.argsort()
        rows, found = rows[order], [_taken(one, order) for one in found]
    filled = iter(_unusual(view, where, values, sparse, rows))
    dense_found = iter(found)
    return [next(dense_found if column.usual is None else filled) for column in columns]


def _read(view: Readable, where: str, values: Sequence[Any], columns: Sequence[Column]) -> list[Array]:
    """Return `seq` and the columns of the rows that are found, in any order."""
    wanted = [Column("e.seq", "int"), *columns]
    texts = ", ".join(f"CAST({_SQL[column.kind].format(column.sql)} AS BLOB)" for column in wanted)
    count, *joined = view.rows(f"SELECT count(*), {texts} {where}", *values)[0]
    return [_READ[column.kind](text or b"", count) for column, text in zip(wanted, joined, strict=True)]


def _unusual(
    view: Readable, where: str, values: Sequence[Any], columns: Sequence[Column], rows: np.ndarray[Any, Any]
) -> list[Array]:
    """Read the columns that mostly have their usual value, where they have another."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not columns:
        return []
    other = " OR ".join(f"{column.sql} IS NOT {column.usual}" for column in columns)
    seqs, *found = _read(view, f"{where} AND ({other})", values, columns)
    at = np.searchsorted(rows, seqs)
    filled: list[Array] = []
    places: pa.Array | None = None
    for column, one in zip(columns, found, strict=True):
        if column.kind in ("int", "maybe"):
            whole = np.full(len(rows), int(str(column.usual)), np.int64)
            whole[at] = one
            filled.append(whole)
            continue
        if places is None:
            index = np.full(len(rows), -1, np.int64)
            index[at] = np.arange(at.size)
            places = pa.array(index, mask=index < 0)
        taken = pc.take(one, places, memory_pool=pa.system_memory_pool())
        if column.usual != "NULL":
            taken = taken.cast(pa.large_string()).fill_null(str(column.usual).strip("'"))
            taken = taken.dictionary_encode() if column.kind == "code" else taken
        filled.append(taken)
    return filled


def _taken(one: Array, order: np.ndarray[Any, Any]) -> Array:
    import numpy as np
    import pyarrow as pa

    return one[order] if isinstance(one, np.ndarray) else one.take(pa.array(order))


_SQL = {
    "int": "group_concat({0})",
    "maybe": "group_concat(coalesce({0}, -9223372036854775808))",
    "number": "group_concat(coalesce({0}, ''), char(0))",
    "text": "group_concat(coalesce({0}, ''), char(0))",
    "code": "group_concat(coalesce({0}, ''), char(0))",
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


# Arrow's own pool takes fresh pages for each piece; the system's has those of the pieces before: a sixth less time.


def _numbers(text: bytes, count: int) -> pa.Array:
    import pyarrow as pa

    return _texts(text, count).cast(pa.float64(), memory_pool=pa.system_memory_pool())


def _codes(text: bytes, count: int) -> pa.Array:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    first, _, _ = text.partition(b"\0")
    if first and len(text) == (len(first) + 1) * count - 1 and text == b"\0".join([first] * count):
        # All rows have the same: mostly so, and a tenth of the work.
        only = pa.array([first.decode()], pa.large_string())
        return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), only)
    return pc.dictionary_encode(_texts(text, count), memory_pool=pa.system_memory_pool())


_READ = {"int": _integers, "maybe": _integers, "number": _numbers, "text": _texts, "code": _codes}


def _joined(pieces: list[Array], kind: Kind) -> Array:
    import numpy as np
    import pyarrow as pa

    if kind in ("int", "maybe"):
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)
    if kind == "code":
        return pa.chunked_array(pieces, pa.dictionary(pa.int32(), pa.large_string())).unify_dictionaries(
            memory_pool=pa.system_memory_pool()
        )
    return pa.chunked_array(pieces, pa.float64() if kind == "number" else pa.large_string())
