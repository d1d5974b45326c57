"""Makes a store with a year of history in seconds: the real engine, in a time that leaps from one event to the next.

The engine decides what runs, what is missed and what is skipped; nothing is written into the store beside it. Only the
bodies are stand-ins: they let time pass, fail now and then, and answer. Chance is seeded: every making is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import selectors
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from math import log
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch
from zoneinfo import ZoneInfo

import anyio
from msgspec.structs import replace

import car_sched_nb as car
from car_sched_nb.model import from_us, to_us
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

ZONE = ZoneInfo("Europe/Berlin")
NAMESPACE = "shop.ipynb"
MAX_RUNNING = 2
"""So many things run at the same time; others wait."""


def berlin(text: str) -> datetime:
    """Return an instant that is given as the clocks in Berlin show it."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE)


START, END = berlin("2025-11-01 00:00"), berlin("2026-10-31 23:59")

# What happens to the machine and to the tasks

GONE, BACK = berlin("2026-06-11 20:40"), berlin("2026-06-12 12:20")
"""The machine is off: nobody plans anything."""
DOZES, AWAKES = berlin("2026-01-17 22:30"), berlin("2026-01-18 09:15")
"""The machine sleeps; the scheduler is there, and stands still."""
RENAMED, MENDED = berlin("2026-02-03 00:00"), berlin("2026-02-06 11:00")
"""Between these a column has another name than `report` knows; then comes its second version."""
SLOWER, FASTER = berlin("2026-05-04 00:00"), berlin("2026-09-14 10:00")
"""Between these `clean` gets slower; then comes its second version."""
DOWN = ("2025-12-09", "2026-04-21", "2026-08-13")
"""Nights in which the database does not answer, however often `load` asks."""

# The tasks of a web shop, and their bodies


def _cron(name: str, schedule: str, **options: Any) -> car.Task:
    return car.Task(name, f"{name}, version 1", car.Trigger.CRON, schedule, tz=ZONE.key, **options)


def _after(name: str, after: str, **options: Any) -> car.Task:
    return car.Task(name, f"{name}, version 1", car.Trigger.AFTER, after=after, **options)


PRICES = _cron("prices", "0 * * * *", retries=2, retry_delay="1m")
LOAD = _cron("load", "30 2 * * *", retries=2, retry_delay="5m")
CLEAN = _after("clean", "load")
REPORT = _after("report", "clean", retries=1, retry_delay="2m")
CRAWL = _cron("crawl", "10 2,8,14,20 * * *")
BACKUP = _cron("backup", "0 4 * * sun", runner="shell", timeout="1h")
TRIAGE = _cron("triage", "30 7 * * mon-fri", runner="agent", model="example-large", catchup="none", retries=1)
HEALTH = _cron("health", "*/30 * * * *", runner="shell", catchup="none", timeout="30s")
TASKS = (PRICES, LOAD, CLEAN, REPORT, CRAWL, BACKUP, TRIAGE)


class Done(NamedTuple):
    """What a body does: how long it works, and what it answers or raises."""

    seconds: float
    answer: str | AgentOutput | Exception


class Asked(NamedTuple):
    """What a body knows: when it was planned, its text, and its own chance."""

    at: datetime
    prompt: str
    spec: AgentSpec
    chance: Random

    def about(self, minutes: float, spread: float = 0.2) -> float:
        """Return seconds around so many minutes."""
        return self.chance.lognormvariate(log(minutes * 60), spread)


def _prices(asked: Asked) -> Done:
    if asked.chance.random() < 0.025:
        return Done(asked.about(0.5), ConnectionError("the exchange did not answer"))
    return Done(asked.about(0.4), f"{asked.chance.randint(480, 520)} prices")


def _load(asked: Asked) -> Done:
    if f"{asked.at:%Y-%m-%d}" in DOWN:
        return Done(asked.about(1), ConnectionRefusedError("the database is not there"))
    if asked.chance.random() < 0.06:
        return Done(asked.about(4), ConnectionResetError("the database closed the connection"))
    return Done(asked.about(9), f"{asked.chance.randint(18_000, 24_000)} rows")


def _clean(asked: Asked) -> Done:
    weeks = max(0.0, (asked.at - SLOWER).total_seconds() / (7 * 86_400))
    minutes = 3.5 if asked.prompt.endswith("2") else 4 + 3.4 * weeks
    return Done(asked.about(minutes, 0.12), f"{asked.chance.randint(17_000, 23_000)} rows kept")


def _report(asked: Asked) -> Done:
    if asked.at >= RENAMED and asked.prompt.endswith("1"):
        return Done(asked.about(0.2), KeyError("region"))
    return Done(asked.about(0.8), "sent")


def _crawl(asked: Asked) -> Done:
    slow = asked.chance.random() < 0.015
    return Done(asked.about(430 if slow else 95, 0.08), f"{asked.chance.randint(900, 1_100)} pages")


def _backup(asked: Asked) -> Done:
    return Done(asked.about(42, 0.22), "saved")


def _health(asked: Asked) -> Done:
    return Done(40 if asked.chance.random() < 0.004 else asked.about(0.02), "well")


def _triage(asked: Asked) -> Done:
    """Read the mails of the night, or of the weekend, and sort them."""
    chance, model = asked.chance, asked.spec.metadata["model"]
    busy = 1.5 if asked.at.month == 12 else 1.0
    mails = round(chance.gauss(240 if asked.at.weekday() == 0 else 110, 15) * busy)
    tokens_in, tokens_out = mails * chance.randint(880, 920), mails * chance.randint(55, 65)
    dear_in, dear_out, slips = (3e-6, 15e-6, 0.01) if model == "example-large" else (0.3e-6, 1.5e-6, 0.06)
    topics, weights = ["delivery", "invoice", "returns", "login"], [6 if asked.at.month == 12 else 3, 2, 2, 1]
    found = {
        "mails": mails,
        "urgent": sum(chance.random() < 0.05 for _ in range(mails)),
        "topic": chance.choices(topics, weights)[0],
        "mood": round(chance.uniform(0.35, 0.75), 2),
    }
    slipped = chance.random() < slips
    output = AgentOutput(
        answer="" if slipped else json.dumps(found),
        error="the answer does not fit Triage: 'urgent' is not a number" if slipped else None,
        turns=1 + mails // 40,
        tool_calls=mails // 40,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=round(tokens_in * dear_in + tokens_out * dear_out, 6),
        model=model,
    )
    return Done(mails * 0.8, output)


BODIES: dict[str, Callable[[Asked], Done]] = {
    "prices": _prices,
    "load": _load,
    "clean": _clean,
    "report": _report,
    "crawl": _crawl,
    "backup": _backup,
    "health": _health,
    "triage": _triage,
}

# The year

Change = Callable[[car.Scheduler], Awaitable[object]]


async def _nothing(scheduler: car.Scheduler) -> None:
    """Change nothing: it is the machine that sleeps."""


CHANGES: list[tuple[datetime, Change]] = [
    (berlin("2025-12-24 12:00"), lambda scheduler: scheduler.pause("triage")),
    (berlin("2026-01-05 06:00"), lambda scheduler: scheduler.resume("triage")),
    (DOZES, _nothing),
    (MENDED, lambda scheduler: scheduler.add(replace(REPORT, prompt="report, version 2"))),
    (berlin("2026-04-01 00:00"), lambda scheduler: scheduler.add(replace(TRIAGE, model="example-small"))),
    (FASTER, lambda scheduler: scheduler.add(replace(CLEAN, prompt="clean, version 2"))),
    (berlin("2026-10-01 00:05"), lambda scheduler: scheduler.add(HEALTH)),
]


class Year:
    """One year, or a part of it, in a store."""

    def __init__(self, store: SqliteStore, start: datetime, end: datetime) -> None:
        self._store, self._end = store, end
        self._changes = deque(CHANGES)
        self.clock = LeapingClock(start)

    async def live(self) -> None:
        """Let it pass: two lives of a scheduler, with an outage between them."""
        begun = False
        for comes, goes in ((START, GONE), (BACK, END)):
            if self.clock.now < goes and comes < self._end:
                self.clock.leap_to(max(comes, self.clock.now))
                async with self._scheduler() as scheduler:
                    if begun:
                        await scheduler.arm_all()
                    else:
                        for task in TASKS:
                            await scheduler.add(task)
                    begun = True
                    await self._go_on(scheduler, min(goes, self._end))

    def _scheduler(self) -> car.Scheduler:
        scheduler = car.Scheduler(
            self._store, namespace=NAMESPACE, clock=self.clock, owner_name="shop", max_running=MAX_RUNNING
        )
        for runner in ("python", "shell", "agent"):
            scheduler.register(runner, self._body)
        return scheduler

    async def _body(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str | AgentOutput:
        one = runtime.occurrence
        at = one.scheduled_at.astimezone(ZONE)
        chance = Random(f"{one.task} {at} {one.attempt}")  # noqa: S311 - no secret
        done = BODIES[one.task](Asked(at, prompt, spec, chance))
        await self.clock.sleep(done.seconds)
        if isinstance(done.answer, Exception):
            raise done.answer
        return done.answer

    async def _go_on(self, scheduler: car.Scheduler, until: datetime) -> None:
        while self._changes and self._changes[0][0] < until:
            at, change = self._changes.popleft()
            if at > self.clock.now:  # what was changed before the first day is changed at once
                await self.clock.pass_until(at, scheduler)
            await change(scheduler)
            if at == DOZES and self.clock.now < AWAKES:
                self.clock.leap_to(AWAKES)
        await self.clock.pass_until(until, scheduler)


def make(path: Path, start: datetime = START, end: datetime = END) -> int:
    """Make a store of a period, and return how many rows its history has."""
    store = SqliteStore()  # in memory: nobody waits for a disk that must not forget
    store.migrate()
    year = Year(store, start, end)
    # A retry's delay is spread by a hash of the execution's id, which is chance like the task's.
    numbers = itertools.count(1)
    with (
        patch.object(records, "new_id", lambda: f"{next(numbers):010x}"),
        asyncio.Runner(loop_factory=year.clock.loop) as runner,
    ):
        runner.run(year.live())
    path.unlink(missing_ok=True)
    store.rows("VACUUM INTO ?", str(path))
    rows: int = store.rows("SELECT count(*) FROM executions")[0][0]
    store.close()
    return rows


# Time


class LeapingClock:
    """A clock whose time stands still while anything is being done, and then leaps to the next instant that counts."""

    def __init__(self, start: datetime) -> None:
        self._start_us = to_us(start)
        self._passed_us = 0
        self._alarms: list[int] = []
        self._until_us: int | None = None
        self._reached = asyncio.Event()
        self._scheduler: car.Scheduler | None = None

    def now_us(self) -> int:
        return self._start_us + self._passed_us

    def monotonic_us(self) -> int:
        return self._passed_us

    @property
    def now(self) -> datetime:
        """The instant, aware UTC."""
        return from_us(self.now_us())

    async def wait(self, until_us: int | None, wake: anyio.Event) -> None:
        with anyio.CancelScope() as scope:
            if until_us is not None:
                scope.deadline = self._alarm(until_us)
            await wake.wait()

    async def reach(self, until_us: int) -> None:
        """Wait for what has no hurry: an hourly maintenance, which has nothing to remove here."""
        await anyio.sleep_forever()

    async def sleep(self, seconds: float) -> None:
        """Let time pass, as a body does that works; its task's timeout counts too."""
        timeout_s = anyio.current_effective_deadline() - anyio.current_time()
        alarm = self._alarm(self.now_us() + round(min(seconds, timeout_s) * 1e6))
        await anyio.sleep_until(alarm if seconds < timeout_s else float("inf"))

    def _alarm(self, at_us: int) -> float:
        """Let the time stop at an instant; return it as the loop counts."""
        heapq.heappush(self._alarms, at_us)
        return _seconds(at_us - self._start_us)

    async def pass_until(self, instant: datetime, scheduler: car.Scheduler) -> None:
        """Let time pass while a scheduler works."""
        self._scheduler, self._until_us = scheduler, to_us(instant)
        self._reached.clear()
        await self._reached.wait()

    def leap_to(self, instant: datetime) -> None:
        """Be at a later instant at once: nobody was there meanwhile, or awake."""
        self._passed_us = to_us(instant) - self._start_us

    def leap(self) -> bool:
        """Go on to the next instant that counts, unless something is still being done at this one."""
        if self._until_us is None or self._scheduler is None or _is_writing(self._scheduler):
            return False
        while self._alarms and self._alarms[0] <= self.now_us():
            heapq.heappop(self._alarms)
        at_us = min([self._until_us, *self._alarms[:1]])
        self._passed_us = at_us - self._start_us
        if at_us == self._until_us:
            self._until_us = None
            self._reached.set()
        return True

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop whose sleeps and timeouts are in this clock's time."""
        return _Loop(self)


def _is_writing(scheduler: car.Scheduler) -> bool:
    """Tell whether the writer's thread owes an answer on which something waits."""
    if scheduler.engine.settling or scheduler.running.claiming:
        return True
    return any(run.starting or run.finish is not None for run in scheduler.live())


_TICKS = 1 << 20  # in a second: shorter than a microsecond, and their sums are exact, also after a year


def _seconds(us: int) -> float:
    """Return microseconds as a loop counts them, so that a timeout ends at its very instant."""
    return (us * _TICKS // 1_000_000) / _TICKS


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: LeapingClock) -> None:
        super().__init__(_Selector(clock))
        self._clock = clock
        # asyncio's own, a nanosecond, is lost in a year of seconds: a timer would be due and never begin.
        self._clock_resolution = 0.5 / _TICKS

    def time(self) -> float:
        return _seconds(self._clock.monotonic_us())


class _Selector(selectors.SelectSelector):
    """Is asked what is ready when its loop has nothing to do: the moment in which time may pass."""

    def __init__(self, clock: LeapingClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0) or self._clock.leap():
            return found
        return super().select(0.05)  # a thread will answer, and wakes it


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a file to make")
    began = time.monotonic()
    rows = make(parser.parse_args().store)
    print(f"a year, {rows:,} rows of history, in {time.monotonic() - began:.0f} s")
