"""APScheduler 4, an alpha: AsyncScheduler with its memory store, or its SQLAlchemy store on aiosqlite.

Results are kept for an hour, because ours keeps them too. Every slot is kept (`coalesce` all).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from apscheduler import AsyncScheduler, CoalescePolicy, ConflictPolicy, JobReleased, TaskDefaults, current_job
from apscheduler.datastores.memory import MemoryDataStore
from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
from apscheduler.triggers.interval import IntervalTrigger

from tests.bench.figures import (
    HAND_WAIT_S,
    STORE,
    Figures,
    Lateness,
    beside_a_cell,
    idle,
    multiply,
    note_start,
    rate,
    resident_bytes,
    write_ahead,
)

LATENESS = Lateness()
KEEP_S = 3600


def version() -> str:
    return metadata.version("apscheduler")


def scheduler_on(store: str) -> Any:
    """Return a scheduler; `wal` is a file whose journal is a write-ahead log."""
    if store == "wal":
        write_ahead()
    kept = MemoryDataStore() if store == "memory" else SQLAlchemyDataStore(f"sqlite+aiosqlite:///{STORE}")
    return AsyncScheduler(kept, identity="bench", task_defaults=TaskDefaults(max_running_jobs=None))


async def noop() -> str:
    return ""


async def executions(store: str, n: int) -> Figures:
    """Time n calls of `add_job`, to the last end."""
    ended, all_ended = 0, asyncio.Event()

    def hear(event: object) -> None:
        nonlocal ended
        ended += 1
        if ended == n:
            all_ended.set()

    async with scheduler_on(store) as scheduler:
        await scheduler.start_in_background()
        scheduler.subscribe(hear, {JobReleased})
        await scheduler.configure_task("noop", func=noop)
        began = time.perf_counter()
        for _ in range(n):
            await scheduler.add_job("noop", result_expiration_time=KEEP_S)
        await asyncio.wait_for(all_ended.wait(), HAND_WAIT_S)
        figures = rate(ended, n, time.perf_counter() - began)
        await scheduler.stop()
    return figures


async def fill_history(rows: int) -> Figures:
    await executions("file", 1)
    multiply("job_results", rows, {"job_id": "randomblob(16)"})
    return {"rows": rows}


def rarely() -> IntervalTrigger:
    return IntervalTrigger(weeks=1, start_time=datetime.now(UTC) + timedelta(weeks=1))


async def wait_armed(n: int, seconds: float) -> Figures:
    async with scheduler_on("memory") as scheduler:
        await scheduler.start_in_background()
        before = resident_bytes()
        for number in range(n):
            await scheduler.add_schedule(noop, rarely(), id=f"rare{number}")
        figures = await idle(before, n, seconds)
        await scheduler.stop()
    return figures


async def note() -> None:
    job = current_job.get()
    assert job.scheduled_fire_time
    LATENESS.note(job.scheduled_fire_time.timestamp())


async def aligned(store: str, n: int, seconds: float, adding_s: float) -> None:
    """Run n schedules on every full second; `adding_s` is what adding them may take."""
    begin = datetime.fromtimestamp(LATENESS.watch(seconds, lead_s=adding_s), UTC)
    async with scheduler_on(store) as scheduler:
        for number in range(n):
            trigger = IntervalTrigger(seconds=1, start_time=begin)
            await scheduler.add_schedule(note, trigger, id=str(number), coalesce=CoalescePolicy.all)
        if datetime.now(UTC) > begin:
            raise TimeoutError(f"adding {n} schedules took longer than {adding_s} s")
        await scheduler.start_in_background()
        await LATENESS.over()
        print(json.dumps(LATENESS.figures(int(n * seconds))), flush=True)
        os._exit(0)  # leaving would first work off all that is late


def beside(store: str, seconds: float) -> Figures:
    return beside_a_cell(in_a_thread(store), LATENESS, seconds)


@contextmanager
def in_a_thread(store: str) -> Iterator[None]:
    up, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        begin = datetime.now(UTC) + timedelta(seconds=1)
        async with scheduler_on(store) as scheduler:
            for number in range(100):
                trigger = IntervalTrigger(seconds=1, start_time=begin + timedelta(seconds=number / 100))
                await scheduler.add_schedule(note, trigger, id=str(number), coalesce=CoalescePolicy.all)
            await scheduler.start_in_background()
            up.set()
            await stop.wait()
            await scheduler.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    up.wait()
    yield
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(10)


async def fill_first(n: int) -> Figures:
    async with scheduler_on("file") as scheduler:
        for number in range(n):
            await scheduler.add_schedule(noop, rarely(), id=f"rare{number}")
        await scheduler.add_schedule(tell, IntervalTrigger(microseconds=100_000), id="first")
    return {"schedules": n}


async def tell() -> None:
    os.write(1, b"FIRST\n")


async def first() -> None:
    async with scheduler_on("file") as scheduler:
        await scheduler.start_in_background()
        await asyncio.sleep(600)


async def log() -> None:
    job = current_job.get()
    assert job.scheduled_fire_time
    note_start(job.scheduled_fire_time.timestamp())
    await asyncio.sleep(0.03)


async def live(every_s: float) -> None:
    """Run one schedule on a grid until killed."""
    async with scheduler_on("file") as scheduler:
        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        await scheduler.configure_task("log", func=log, max_running_jobs=1)
        await scheduler.add_schedule(
            "log",
            IntervalTrigger(microseconds=int(every_s * 1e6), start_time=begin),
            id="tick",
            coalesce=CoalescePolicy.all,
            conflict_policy=ConflictPolicy.do_nothing,
        )
        await scheduler.start_in_background()
        os.write(1, b"UP\n")
        await asyncio.sleep(600)
