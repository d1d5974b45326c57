"""One life of a scheduler on a store that others share; its bodies tell a log what they did, past the store."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio._backends._asyncio  # a life must not spend its time on importing

import car_sched_nb as car
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import to_us
from car_sched_nb.store.sqlite import SqliteStore

_PYTHON = "from tests.crash import life; life.work(car.current())"
_SHELL = """
echo "START $CAR_TASK $CAR_SLOT $CAR_ATTEMPT $PPID" >> "$CRASH_LOG"
sleep 0.03
echo "END $CAR_TASK $CAR_SLOT $CAR_ATTEMPT $PPID" >> "$CRASH_LOG"
"""
WORK_S = 0.03


def _every(name: str, interval: str, prompt: str = _PYTHON, runner: str = "python", **policies: Any) -> car.Task:
    return car.Task(name, prompt, car.Trigger.INTERVAL, interval, runner=runner, **policies)


STORM = (
    _every("allow-latest", "50ms", overlap="allow"),
    _every("allow-all", "300ms", "work", "agent", overlap="allow", catchup="all"),
    _every("skip-latest", "70ms", "work", "agent"),
    _every("skip-all", "400ms", catchup="all"),
    _every("skip-none", "110ms", catchup="none", grace="1s"),
    _every("shell", "500ms", _SHELL, "shell", overlap="allow"),
    car.Task("second", _PYTHON, car.Trigger.CRON, "* * * * * *", tz="UTC"),
)
"""Slots for all policies, most of them closer together than a life is long; what is caught up must not pile up."""

HOURLY = (_every("thread", "1h"), _every("loop", "1h", "work", "agent"))
"""One slot each, at once."""

SLEEPERS = (_every("sleeper", "100ms", "sleep 600 & sleep 600", "shell", overlap="allow"),)
"""Shells that would outlive every test, with a child of their own."""

GRIDS = {"storm": STORM, "hourly": HOURLY, "sleepers": SLEEPERS}


def live(store: str, log: str, grid: str) -> None:
    """Run the tasks of a grid until somebody kills it."""
    anyio.run(_live, store, log, grid, False)


def live_calmly(store: str, log: str, grid: str) -> None:
    """Run the tasks of a grid until all that is due when it starts is settled, and leave; UNTIL says what was due."""
    anyio.run(_live, store, log, grid, True)


def open_store(store: str) -> None:
    """Open a store, a new one too, and make sure of its tables."""
    SqliteStore(store).migrate()


async def _live(store: str, log: str, grid: str, calm: bool) -> None:
    os.environ["CRASH_LOG"] = log
    note(log, f"LIFE {os.getpid()}")
    # Fewer places than runs: some wait, and are claimed and started in two transactions.
    async with car.Scheduler(store, runner=agent, max_running=3) as scheduler:
        for task in GRIDS[grid]:
            await scheduler.add(task)
        if calm:
            await settled(scheduler)
        else:
            await anyio.sleep_forever()


async def settled(scheduler: Scheduler) -> None:
    """Return when every slot that is due now is settled, and say so."""
    until = datetime.now(UTC)
    # No event tells: it may be another life that settles them.
    while any(task.next_at is not None and task.next_at <= until for task in scheduler.tasks()):  # noqa: ASYNC110
        await anyio.sleep(0.02)
    for task in scheduler.tasks():
        await scheduler.disarm(task.name)
    await scheduler.wait()  # what waits for a place, too: left behind it would wait for the next life
    note(os.environ["CRASH_LOG"], f"UNTIL {to_us(until)}")


async def agent(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
    tell("START", runtime)
    try:
        await anyio.sleep(WORK_S)
    finally:
        tell("END", runtime)
    return "done"


def work(runtime: car.Runtime) -> None:
    tell("START", runtime)
    try:
        time.sleep(WORK_S)
    finally:
        tell("END", runtime)


def tell(what: str, runtime: car.Runtime) -> None:
    occurrence = runtime.occurrence
    note(os.environ["CRASH_LOG"], f"{what} {occurrence.task} {occurrence.slot} {occurrence.attempt} {os.getpid()}")


def note(log: str, line: str) -> None:
    """Append a line at once and whole: it survives whatever comes next."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)
