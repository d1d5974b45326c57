"""What a history looks like in a file: Parquet, CSV, JSON lines; written piece by piece, in little memory."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.metadata import version
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

from car_sched_nb.store import schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_MICROSECOND = Decimal("0.000001")
_CONTROLS = {chr(code): f"\\u{code:04x}" for code in range(32)}


def tables(frames: Iterable[pd.DataFrame]) -> Iterator[pa.Table]:
    """Yield frames as Arrow tables that all have one schema, whichever columns have no value in which of them."""
    import pyarrow as pa

    fixed: pa.Schema | None = None
    for frame in frames:
        if fixed is None:
            found = pa.Schema.from_pandas(frame, preserve_index=True)
            fields = [field.with_type(pa.large_string()) if field.type == pa.null() else field for field in found]
            fixed = pa.schema(fields, found.metadata)
        yield pa.Table.from_pandas(frame, fixed, preserve_index=True)


def write_parquet(file: IO[bytes], pieces: Iterator[pa.Table]) -> int:
    """Write tables whose pandas dtypes come back when they are read; return the number of rows."""
    import pyarrow.parquet as pq

    first = next(pieces)
    made_by = {"car_sched_nb.version": version("car_sched_nb"), "car_sched_nb.schema_version": str(schema.VERSION)}
    written = 0
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for piece in chain([first], pieces):
            writer.write_table(piece)
            written += piece.num_rows
        writer.add_key_value_metadata(made_by)
    return written


def write_csv(file: IO[bytes], pieces: Iterator[pa.Table]) -> int:
    """Write instants in ISO 8601, durations in seconds, no value as nothing; return the number of rows."""
    from pyarrow.csv import CSVWriter

    first = _plain(next(pieces))
    written = 0
    with CSVWriter(file, first.schema) as writer:
        for piece in chain([first], map(_plain, pieces)):
            writer.write_table(piece)
            written += piece.num_rows
    return written


def write_json_lines(file: IO[bytes], pieces: Iterator[pa.Table]) -> int:
    """Write an object a row, with parameters as an object and null for no value; return the number of rows."""
    written = 0
    for piece in pieces:
        for batch in _plain(piece).combine_chunks().to_batches():
            file.write(_json_lines(batch))
            written += batch.num_rows
    return written


def _json_lines(batch: pa.RecordBatch) -> memoryview:
    """Return rows as JSON, put together by Arrow, which leaves Python's lock to the engine meanwhile."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts: list[Any] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts += [pa.scalar(f'{"," if parts else "{"}"{name}":', pa.large_string()), _json_values(name, column)]
    lines = pc.binary_join_element_wise(*parts, pa.scalar("}\n", pa.large_string()), pa.scalar("", pa.large_string()))
    ends = memoryview(lines.buffers()[1]).cast("q")
    return memoryview(lines.buffers()[2])[ends[lines.offset] : ends[lines.offset + len(lines)]]


def _json_values(name: str, column: pa.Array) -> pa.Array:
    """Return each value as JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, None)
    if not pa.types.is_large_string(column.type) or name == "params":
        return pc.fill_null(column.cast(pa.large_string()), "null")
    text = column
    found = _CONTROLS if pc.any(pc.match_substring_regex(text, "[\x00-\x1f]")).as_py() else {}
    for sign, escaped in ({"\\": "\\\\", '"': '\\"'} | found).items():
        text = pc.replace_substring(text, sign, escaped)
    quote = pa.scalar('"', pa.large_string())
    return pc.fill_null(pc.binary_join_element_wise(quote, text, quote, pa.scalar("", pa.large_string())), "null")


Writer = Callable[[IO[bytes], Iterator["pa.Table"]], int]
WRITERS: dict[str, Writer] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".csv.gz": write_csv,
    ".jsonl": write_json_lines,
    ".jsonl.gz": write_json_lines,
    ".ndjson": write_json_lines,
}
"""By the ending of the file."""


@contextmanager
def opened(path: str, ending: str) -> Iterator[IO[bytes]]:
    """Open the file that a writer writes to, through gzip where its name says so."""
    with open(path, "wb") as file:  # noqa: PTH123 - a path as text
        if not ending.endswith(".gz"):
            yield file
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file) as packed:
            yield packed  # type: ignore[misc]


def _plain(table: pa.Table) -> pa.Table:
    """Return a table of text and numbers, with the index first."""
    import pyarrow as pa

    names = ["execution_id", *(name for name in table.column_names if name != "execution_id")]
    return pa.table([_plain_column(table[name]) for name in names], names)


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_timestamp(kind):  # `strftime` takes twenty times as long (pyarrow 26)
        text = column.cast(pa.timestamp("us")).cast(pa.large_string())
        nothing = pa.scalar("", pa.large_string())
        return pc.binary_join_element_wise(
            pc.binary_replace_slice(text, 10, 11, "T"), pa.scalar("Z", pa.large_string()), nothing
        )
    if pa.types.is_duration(kind):  # decimals, of which no microsecond is lost
        return pc.multiply(column.cast(pa.int64()).cast(pa.decimal128(19, 0)), pa.scalar(_MICROSECOND))
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return column.cast(pa.large_string())
    return column
