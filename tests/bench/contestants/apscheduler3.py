"""APScheduler 3: AsyncIOScheduler with its memory store, or with its SQLAlchemy store on SQLite.

Beside a computing cell its BackgroundScheduler, made for that. Every slot is kept (`coalesce=False`, no grace).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

import sqlalchemy
from apscheduler import events
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler

from tests.bench.figures import (
    HAND_WAIT_S,
    STORE,
    Figures,
    Lateness,
    beside_a_cell,
    idle,
    note_start,
    rate,
    resident_bytes,
    write_ahead,
)

LATENESS = Lateness()
KEEP_ALL = {"coalesce": False, "misfire_grace_time": None, "max_instances": 1}
PLANNED: dict[str, deque[float]] = defaultdict(deque)
BEGAN: dict[str, deque[float]] = defaultdict(deque)


def version() -> str:
    return metadata.version("apscheduler")


def scheduler_on(store: str, kind: type[Any] = AsyncIOScheduler) -> Any:
    """Return a scheduler; `wal` is a file whose journal is a write-ahead log."""
    if store == "wal":
        write_ahead()
    jobs = MemoryJobStore() if store == "memory" else SQLAlchemyJobStore(f"sqlite:///{STORE}")
    return kind(jobstores={"default": jobs}, timezone=UTC, job_defaults=KEEP_ALL)


async def noop() -> str:
    return ""


async def executions(store: str, n: int) -> Figures:
    """Time n calls of `add_job` for now, to the last end."""
    scheduler, ended, all_ended = scheduler_on(store), 0, asyncio.Event()

    def hear(event: object) -> None:
        nonlocal ended
        ended += 1
        if ended == n:
            all_ended.set()

    scheduler.add_listener(hear, events.EVENT_JOB_EXECUTED)
    scheduler.start()
    began = time.perf_counter()
    for number in range(n):
        scheduler.add_job(noop)
        if number % 100 == 99:
            await asyncio.sleep(0)
    await asyncio.wait_for(all_ended.wait(), HAND_WAIT_S)
    return rate(ended, n, time.perf_counter() - began)


def fill(n: int) -> Figures:
    """Store n jobs that are planned for next week; this is not timed, so nothing waits for the disk."""
    engine = sqlalchemy.create_engine(f"sqlite:///{STORE}")
    sqlalchemy.event.listen(engine, "connect", lambda db, _: db.execute("PRAGMA synchronous = off"))
    store = SQLAlchemyJobStore(engine=engine)
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC, job_defaults=KEEP_ALL)
    scheduler.start(paused=True)
    add_rare(scheduler, n)
    return {"jobs": len(scheduler.get_jobs())}


def add_rare(scheduler: Any, n: int) -> None:
    for number in range(n):
        scheduler.add_job(noop, "interval", weeks=1, id=f"rare{number}")


async def wait_armed(store: str, n: int, seconds: float) -> Figures:
    scheduler = scheduler_on(store)
    scheduler.start(paused=True)
    before = resident_bytes()
    if store == "memory":
        add_rare(scheduler, n)
    scheduler.resume()
    return await idle(before, n, seconds)


async def note(job: str) -> None:
    BEGAN[job].append(time.time())


def note_in_a_thread(job: str) -> None:
    BEGAN[job].append(time.time())


def pair(event: Any) -> None:
    """Hand on a body's own instant with the planned one, which a body is not told; a job's runs end in order."""
    LATENESS.note(event.scheduled_run_time.timestamp(), BEGAN[event.job_id].popleft())


async def aligned(store: str, n: int, seconds: float) -> Figures:
    scheduler = scheduler_on(store)
    scheduler.start(paused=True)
    scheduler.add_listener(pair, events.EVENT_JOB_EXECUTED)
    began = time.time()
    begin = datetime.fromtimestamp(int(began) + 1, UTC) + timedelta(days=1)
    for number in range(n):  # moved to the real beginning below: adding may take longer than it is away
        scheduler.add_job(note, "interval", seconds=1, args=[str(number)], id=str(number), start_date=begin)
    took = time.time() - began
    first = datetime.fromtimestamp(LATENESS.watch(seconds, lead_s=1 + 2 * took), UTC)
    for number in range(n):
        scheduler.reschedule_job(str(number), trigger="interval", seconds=1, start_date=first)
    scheduler.resume()
    await LATENESS.over()
    return LATENESS.figures(int(n * seconds))


def beside(store: str, seconds: float) -> Figures:
    return beside_a_cell(in_a_thread(store), LATENESS, seconds)


@contextmanager
def in_a_thread(store: str) -> Iterator[None]:
    scheduler = scheduler_on(store, BackgroundScheduler)
    scheduler.add_listener(pair, events.EVENT_JOB_EXECUTED)
    scheduler.start()
    begin = datetime.now(UTC) + timedelta(seconds=1)
    for number in range(100):
        start = begin + timedelta(seconds=number / 100)
        scheduler.add_job(note_in_a_thread, "interval", seconds=1, args=[str(number)], id=str(number), start_date=start)
    yield
    scheduler.shutdown()


def fill_first(n: int) -> Figures:
    filled = fill(n)
    scheduler = scheduler_on("file", BackgroundScheduler)
    scheduler.start(paused=True)
    scheduler.add_job(tell, "interval", seconds=0.1, id="first")
    return filled


async def tell() -> None:
    os.write(1, b"FIRST\n")


async def first() -> None:
    scheduler_on("file").start()
    await asyncio.sleep(600)


async def log() -> None:
    note_start(PLANNED["tick"].popleft())
    await asyncio.sleep(0.03)


async def live(every_s: float) -> None:
    """Run one job on a grid until killed."""

    def plan(event: Any) -> None:
        PLANNED[event.job_id].extend(at.timestamp() for at in event.scheduled_run_times)

    scheduler = scheduler_on("file")
    scheduler.add_listener(plan, events.EVENT_JOB_SUBMITTED)
    scheduler.start()
    if not scheduler.get_job("tick"):
        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        scheduler.add_job(log, "interval", seconds=every_s, id="tick", start_date=begin)
    os.write(1, b"UP\n")
    await asyncio.sleep(600)
