"""What every contestant measures with, so that a figure means the same for each of them."""

from __future__ import annotations

import asyncio
import gc
import math
import sqlite3
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

Figures = dict[str, float]
"""What one measurement found, by name; a unit is part of the name."""

STORE = "bench.db"
"""Each measurement has a working folder of its own, and its store in it."""

LOG = "started.log"
HAND_WAIT_S = 120  # for work that was started; beyond it the measurement says what is missing

_ALONE_S = 3.0
_SETTLE_S = 2.0


class UnfinishedError(Exception):
    """Raised when less work was done than was asked for: no figure is better than one of half the work."""

    def __init__(self, done: int, asked: int) -> None:
        super().__init__(f"{done} of {asked} were done")


def rate(done: int, asked: int, took_s: float) -> Figures:
    """Return executions a second, when all of them were done."""
    if done != asked:
        raise UnfinishedError(done, asked)
    return {"per_s": done / took_s, "done": done}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that so large a share of all is not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def spread_ms(late_s: Iterable[float]) -> Figures:
    """Return the median and the 99th percentile in milliseconds, of how many."""
    late_ms = [late * 1000 for late in late_s]
    return {"p50_ms": percentile(late_ms, 0.5), "p99_ms": percentile(late_ms, 0.99), "count": len(late_ms)}


class Lateness:
    """How long after its planned instant each body began, for the slots of one stretch of time.

    Instants are seconds since 1970.
    """

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self._begin = self._end = 0.0

    def watch(self, seconds: float, lead_s: float = 1.0) -> float:
        """Count the slots of so many seconds, from a full second that is at least `lead_s` away; return it."""
        self._begin = float(math.ceil(time.time() + lead_s))
        self._end = self._begin + seconds
        return self._begin

    async def over(self, after_s: float = 2.0) -> None:
        """Wait until the last of these slots has had its time."""
        await asyncio.sleep(max(0.0, self._end + after_s - time.time()))

    def note(self, planned: float, began: float | None = None) -> None:
        """Take a body that begins now, or began then; its own word."""
        began = time.time() if began is None else began
        if self._begin - 1e-6 <= planned < self._end - 1e-6:
            self.late_s.append(began - planned)

    def figures(self, expected: int) -> Figures:
        """Return the spread, and how many of the expected slots no body ever saw."""
        return {**spread_ms(self.late_s), "missed": expected - len(self.late_s), "expected": expected}


def resident_bytes() -> int:
    """Return what this process occupies in memory, after a collection."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def idle(before_bytes: int, tasks: int, seconds: float) -> Figures:
    """Return what tasks that wait cost: memory since `before_bytes`, and the processor's time of so many seconds."""
    await asyncio.sleep(_SETTLE_S)
    occupied = resident_bytes() - before_bytes
    process = psutil.Process()
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    await asyncio.sleep(seconds)
    busy = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    return {"bytes_each": occupied / tasks, "cpu_percent": busy * 100}


def compute(seconds: float) -> float:
    """Work as a cell of pure Python does; return turns a second, the median of quarters of a second.

    The median, because one stretch in which the machine does something else must not look like the scheduler.
    """
    rates, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        turns = total = 0
        while (took := time.perf_counter() - began) < 0.25:
            for number in range(2_000):
                total += number * number % 7
            turns += 1
        rates.append(turns / took)
    return statistics.median(rates)


def beside_a_cell(scheduler: AbstractContextManager[object], lateness: Lateness, seconds: float) -> Figures:
    """Compute on this thread while a scheduler runs 100 bodies a second in others.

    Return its lateness and what it costs the cell: the same loop runs alone before and after, in the same process.
    """
    before = compute(_ALONE_S)
    with scheduler:
        begin = lateness.watch(seconds)
        time.sleep(max(0.0, begin - time.time()))
        together = compute(seconds)
        time.sleep(1)
    alone = statistics.mean((before, compute(_ALONE_S)))
    return {**lateness.figures(int(100 * seconds)), "slower_percent": (1 - together / alone) * 100}


def note_start(planned: float) -> None:
    """Append the planned instant of work that begins to a log that outlives this process."""
    with Path(LOG).open("ab", buffering=0) as log:
        log.write(f"{planned:.3f}\n".encode())


def write_ahead() -> None:
    """Make the store's file one with a write-ahead log, as SQLite's documentation advises for concurrent use."""
    with opened(STORE) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE made (at INTEGER)")


def multiply(table: str, copies: int, differing: Mapping[str, str]) -> None:
    """Copy a row of a table of the store so many times.

    `differing` gives an SQL expression for each column that is not copied; `copies.n` counts, `model` is the row.
    """
    with opened(STORE) as db:
        db.execute("PRAGMA synchronous = off")
        described = db.execute(
            f"PRAGMA table_info({table})"
        )  # (number, name, type, not null, default, place in the key)
        columns = [name for _, name, kind, _, _, key in described if not (key and kind == "INTEGER")]
        values = ", ".join(differing.get(name, f"model.{name}") for name in columns)
        db.execute(
            f"""WITH RECURSIVE copies (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < ?),
                model AS (SELECT * FROM {table} LIMIT 1)
            INSERT INTO {table} ({", ".join(columns)}) SELECT {values} FROM copies, model""",
            (copies,),
        )
        (held,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        if held <= copies:
            raise UnfinishedError(held, copies)


@contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open a database with the standard library, commit at the end and close it; nobody else may have it open."""
    db = sqlite3.connect(path)
    try:
        with db:
            yield db
        db.execute("PRAGMA wal_checkpoint(truncate)")
    finally:
        db.close()
