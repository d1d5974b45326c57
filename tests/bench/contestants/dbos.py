"""DBOS with its system database in SQLite; schedules are its own, to the second."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import metadata
from typing import Any

from dbos import DBOS

from tests.bench.figures import (
    STORE,
    Figures,
    Lateness,
    UnfinishedError,
    multiply,
    note_start,
    percentile,
    rate,
    write_ahead,
)

LATENESS = Lateness()
SECOND = "* * * * * *"


def version() -> str:
    return metadata.version("dbos")


@DBOS.workflow()
async def noop() -> int:
    return 1


@DBOS.workflow()
async def endless() -> None:
    for _ in range(6000):
        await DBOS.sleep_async(0.1)


@DBOS.workflow()
async def note(planned: datetime, context: Any) -> None:
    LATENESS.note(planned.timestamp())


@DBOS.workflow()
async def log(planned: datetime, context: Any) -> None:
    note_start(planned.timestamp())
    await asyncio.sleep(0.03)


@asynccontextmanager
async def launched(store: str = "file") -> AsyncIterator[None]:
    """Launch; `wal` is a file whose journal is a write-ahead log."""
    if store == "wal":
        write_ahead()
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{STORE}",
            "run_admin_server": False,
            "log_level": "CRITICAL",
            "scheduler_polling_interval_sec": 0.5,
        }
    )
    DBOS.launch()
    yield


async def executions(store: str, n: int, callers: int) -> Figures:
    """Time n workflows from the first start to the last result, by so many callers."""

    async def caller(number: int) -> int:
        handles = [await DBOS.start_workflow_async(noop) for _ in range(number, n, callers)]
        return sum([await handle.get_result() for handle in handles])

    async with launched(store):
        began = time.perf_counter()
        done = sum(await asyncio.gather(*map(caller, range(callers))))
        return rate(done, n, time.perf_counter() - began)


async def fill_history(rows: int) -> Figures:
    await executions("file", 1, 1)
    multiply("workflow_status", rows, {"workflow_uuid": "'earlier' || copies.n"})
    return {"rows": rows}


async def aligned(n: int, seconds: float) -> Figures:
    async with launched():
        for number in range(n):
            DBOS.create_schedule(schedule_name=str(number), workflow_fn=note, schedule=SECOND)
        LATENESS.watch(seconds, lead_s=5)
        await LATENESS.over(after_s=5)
    return LATENESS.figures(int(n * seconds))


async def live(every_s: float) -> None:
    """Run one schedule every second until killed; what passed meanwhile is made up for."""
    assert every_s == 1
    async with launched():
        if not DBOS.list_schedules():
            DBOS.create_schedule(schedule_name="tick", workflow_fn=log, schedule=SECOND, automatic_backfill=True)
        os.write(1, b"UP\n")
        await asyncio.sleep(600)


async def cancel(times: int) -> Figures:
    """Time the cancellation of a workflow, to the end of its wait: it stops at its next step, here every 100 ms."""
    took_s = []
    async with launched():
        for _ in range(times):
            handle = await DBOS.start_workflow_async(endless)
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            await DBOS.cancel_workflow_async(handle.get_workflow_id())
            try:
                await handle.get_result()
            except Exception:  # noqa: BLE001 - a cancelled workflow is an error of DBOS's own
                took_s.append(time.perf_counter() - began)
    if len(took_s) != times:
        raise UnfinishedError(len(took_s), times)
    return {"p50_ms": percentile(took_s, 0.5) * 1000, "max_ms": max(took_s) * 1000}
