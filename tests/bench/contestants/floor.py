"""The floor: the least code that does the thing, asyncio, a heap of timers and the standard library's sqlite3.

It promises nothing, so it is what the machine allows, not what a scheduler could be.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from tests.bench.figures import (
    STORE,
    Figures,
    Lateness,
    beside_a_cell,
    idle,
    multiply,
    opened,
    percentile,
    rate,
    resident_bytes,
)

LATENESS = Lateness()
RARELY_S = 7 * 86_400.0


def version() -> str:
    return f"asyncio and SQLite {sqlite3.sqlite_version}"


async def noop() -> str:
    return ""


class Table:
    """Claims and ends in SQLite, written by one thread; FULL, so that they survive a power cut."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._db = sqlite3.connect(STORE, check_same_thread=False, isolation_level=None)
        self._db.executescript(
            """PRAGMA journal_mode = wal; PRAGMA synchronous = full;
            CREATE TABLE IF NOT EXISTS executions
                (id TEXT PRIMARY KEY, status TEXT, started REAL, finished REAL, answer TEXT) WITHOUT ROWID;"""
        )

    async def claim(self, ids: Iterable[str]) -> None:
        rows = [(each, time.time()) for each in ids]
        await self._write("INSERT INTO executions VALUES (?, 'running', ?, NULL, NULL)", rows)

    async def finish(self, ends: Iterable[tuple[str, str]]) -> None:
        rows = [(time.time(), answer, each) for each, answer in ends]
        await self._write("UPDATE executions SET status = 'completed', finished = ?, answer = ? WHERE id = ?", rows)

    async def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, sql, rows)

    def _commit(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(sql, rows)
        self._db.execute("COMMIT")

    def completed(self) -> int:
        found: tuple[int] = self._db.execute("SELECT count(*) FROM executions WHERE status = 'completed'").fetchone()
        return found[0]


async def grouped(n: int, group: int) -> Figures:
    """Claim, run and finish n occurrences, so many to a transaction."""
    table = Table()
    before = table.completed()
    began = time.perf_counter()
    for first in range(0, n, group):
        ids = [f"floor:int:{number}" for number in range(first, min(n, first + group))]
        await table.claim(ids)
        answers = await asyncio.gather(*(asyncio.create_task(noop()) for _ in ids))
        await table.finish(zip(ids, answers, strict=True))
    return rate(table.completed() - before, n, time.perf_counter() - began)


async def in_memory(n: int) -> Figures:
    """Run n coroutines as tasks and keep their results in a dictionary."""
    results: dict[int, str] = {}

    async def one(number: int) -> None:
        results[number] = await noop()

    began = time.perf_counter()
    await asyncio.gather(*(asyncio.create_task(one(number)) for number in range(n)))
    return rate(len(results), n, time.perf_counter() - began)


async def fill_history(rows: int) -> Figures:
    await grouped(1, 1)
    multiply("executions", rows, {"id": "'earlier:' || copies.n"})
    with opened(STORE) as db:
        db.execute("DELETE FROM executions WHERE id = 'floor:int:0'")
    return {"rows": rows}


class Timer(NamedTuple):
    """A place in the heap."""

    at: float
    number: int
    every_s: float


Fire = Callable[[list[Timer]], object]


class Timers:
    """A heap of timers and one sleep."""

    def __init__(self, timers: Iterable[Timer], fire: Fire) -> None:
        self._heap = list(timers)
        heapq.heapify(self._heap)
        self._fire = fire

    async def run(self) -> None:
        while True:
            now, due = time.time(), []
            while self._heap[0].at <= now:
                timer = self._heap[0]
                heapq.heapreplace(self._heap, timer._replace(at=timer.at + timer.every_s))
                due.append(timer)
            if due:
                self._fire(due)
            await asyncio.sleep(max(0.0, self._heap[0].at - time.time()))


async def wait_armed(n: int, seconds: float) -> Figures:
    before = resident_bytes()
    at = time.time() + RARELY_S
    timers = Timers([Timer(at + number, number, RARELY_S) for number in range(n)], print)
    running = asyncio.create_task(timers.run())
    found = await idle(before, n, seconds)
    running.cancel()
    return found


def noting(table: Table | None, running: set[asyncio.Task[None]]) -> Fire:
    """Return what begins bodies that tell their lateness, after a claim where there is a table."""

    async def body(timer: Timer) -> str:
        LATENESS.note(timer.at)
        return ""

    async def run(due: list[Timer]) -> None:
        ids = [f"{timer.number}:int:{timer.at}" for timer in due]
        if table:
            await table.claim(ids)
        answers = await asyncio.gather(*(asyncio.create_task(body(timer)) for timer in due))
        if table:
            await table.finish(zip(ids, answers, strict=True))

    def fire(due: list[Timer]) -> None:
        task = asyncio.create_task(run(due))
        running.add(task)
        task.add_done_callback(running.discard)

    return fire


async def aligned(store: str, n: int, seconds: float) -> Figures:
    begin = LATENESS.watch(seconds)
    fire = noting(Table() if store == "file" else None, set())
    running = asyncio.create_task(Timers([Timer(begin, number, 1.0) for number in range(n)], fire).run())
    await LATENESS.over()
    running.cancel()
    return LATENESS.figures(int(n * seconds))


def beside(seconds: float) -> Figures:
    return beside_a_cell(in_a_thread(), LATENESS, seconds)


@contextmanager
def in_a_thread() -> Iterator[None]:
    loop = asyncio.new_event_loop()

    async def live() -> None:
        begin = time.time()
        timers = [Timer(begin + number / 100, number, 1.0) for number in range(100)]
        await Timers(timers, noting(Table(), set())).run()

    def run() -> None:
        loop.create_task(live())  # noqa: RUF006 - the loop lives as long as it
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def fill_first(n: int) -> Figures:
    with opened(STORE) as db:
        db.execute("CREATE TABLE tasks (number INTEGER PRIMARY KEY, at REAL, every_s REAL)")
        at = time.time()
        db.execute("INSERT INTO tasks VALUES (0, ?, 0.1)", (at,))
        rare = ((number, at + RARELY_S, RARELY_S) for number in range(1, n + 1))
        db.executemany("INSERT INTO tasks VALUES (?, ?, ?)", rare)
    return {"tasks": n}


async def first() -> None:
    with opened(STORE) as db:
        timers = [Timer(at, number, every) for number, at, every in db.execute("SELECT * FROM tasks")]
    now = time.time()
    await Timers((timer._replace(at=max(timer.at, now)) for timer in timers), lambda due: os.write(1, b"FIRST\n")).run()


async def cancel(times: int) -> Figures:
    """Time the cancellation of a task that sleeps."""
    took_s = []
    for _ in range(times):
        task = asyncio.create_task(asyncio.sleep(600))
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        task.cancel()
        await asyncio.wait([task])
        took_s.append(time.perf_counter() - began)
    return {"p50_ms": percentile(took_s, 0.5) * 1000, "max_ms": max(took_s) * 1000}
